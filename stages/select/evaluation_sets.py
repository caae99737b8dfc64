"""The pictures and questions of named evaluation sets, which must not be trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import Field, model_validator

from models.clip import ClipSettings, load_clip
from models.compat import use_cores
from schemas.errors import InputError
from schemas.identity import digest, digest_file
from schemas.settings import Settings
from schemas.tables import SAMPLES
from schemas.vocabulary import Stage
from stages.acquire.decode import Picture, decode
from stages.acquire.settings import AcquireSettings
from stages.embed import EmbedWork
from stages.run_folder import RunFolder, parquet_bytes
from stages.select.dedup.earlier import check_clip
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS
from stages.store import open_path, read_parquet, write_atomically

VERSION = 1
_KEY = "select.decontaminate"
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
_AT_ONCE = 512


class EvaluationSet(Settings):
    """What is kept out of training because it is asked in an evaluation."""

    name: str = Field(min_length=1, description="says in the report which set a sample was near")
    pictures: str | None = Field(
        default=None,
        description="a folder of picture files, folders in it included, or a run's folder; all its pictures count",
    )
    questions: str | None = Field(
        default=None,
        description="a file of questions: .parquet with a column `question`; .jsonl, each line a text or an object "
        "with the key `question`; any other file, one question a line",
    )
    max_hamming: int | None = Field(
        default=6,
        ge=0,
        le=16,
        description="bits of 64 in which the perceptual hashes of two pictures may differ for them to be one, mirrored "
        "and cropped ones included; null leaves it out",
    )
    min_cosine: float | None = Field(
        default=0.96,
        gt=0,
        le=1,
        description="cosine of two pictures' vectors from which they are one; null leaves it out",
    )
    ngram: int = Field(
        default=8,
        ge=2,
        le=64,
        description="words in a row that a caption may not share with a question; shorter questions are not compared",
    )

    @model_validator(mode="after")
    def _holds_something(self) -> EvaluationSet:
        if self.pictures is None and self.questions is None:
            raise ValueError("name 'pictures', 'questions' or both: without them nothing can be compared")
        if self.pictures is not None and self.max_hamming is None and self.min_cosine is None:
            raise ValueError("pictures: give 'max_hamming' or 'min_cosine'; without them no picture can be near")
        return self

    @property
    def reads_vectors(self) -> bool:
        """Whether it compares pictures by their vectors."""
        return self.pictures is not None and self.min_cosine is not None


@dataclass(frozen=True)
class Held:
    """What an evaluation set holds.

    Attributes:
        settings: as the recipe has it.
        pictures: `item` (a file's path in its folder, or a sample_id), `FINGERPRINT_COLUMNS` and, where pictures are
            compared by it, `vector`; None where the set names no pictures.
        questions: string array; None where the set names none.
    """

    settings: EvaluationSet
    pictures: pa.Table | None
    questions: pa.Array | None


def evaluation_content(sets: Sequence[EvaluationSet]) -> Any:
    """What the sets hold, so that a change of it is seen. JSON-able.

    Raises:
        InputError: a folder or file is not there, or a folder holds no picture.
    """
    content: list[Any] = []
    for one in sets:
        run = _run(one.pictures)
        if run is not None:
            content.append([run.output_digest(stage, part) for stage in ("acquire", "embed") for part in run.parts()])
        elif one.pictures is not None:
            content.append(_folder_content(_files(one)))
        content.append(None if one.questions is None else digest_file(_question_file(one)))
    return content


def read_sets(run: RunFolder, sets: Sequence[EvaluationSet], clip: ClipSettings) -> list[Held]:
    """Reads the sets; pictures of a folder are hashed and embedded once and kept in RUN/contamination.

    Args:
        clip: the model that embeds this run's pictures.

    Raises:
        InputError: a folder or file is not there or holds nothing, a picture is broken, a question file has not the
            form that is asked for, or a run that serves as a set was embedded by another model.
    """
    return [Held(one, _pictures(run, one, clip), _questions(one)) for one in sets]


def _pictures(run: RunFolder, one: EvaluationSet, clip: ClipSettings) -> pa.Table | None:
    if one.pictures is None:
        return None
    other = _run(one.pictures)
    if other is not None:
        return _of_run(other, one, clip)
    files = _files(one)
    how = EmbedWork(run, clip).settings() if one.reads_vectors else None
    path = run.path("contamination", f"{digest([VERSION, how, _folder_content(files)])}.parquet")
    if not path.exists():
        write_atomically(path, parquet_bytes(_read_folder(one, files, None if how is None else clip)))
    return read_parquet(path)


def _of_run(other: RunFolder, one: EvaluationSet, clip: ClipSettings) -> pa.Table:
    samples = other.read_table("samples", None, ["sample_id", *FINGERPRINT_COLUMNS, "reason"])
    samples = samples.filter(pc.is_null(samples["reason"])).drop_columns("reason").rename_columns({"sample_id": "item"})
    if one.min_cosine is None:
        return samples
    check_clip(other, clip, f"{_KEY}.{one.name}")
    vectors = other.read_table("vectors", None, ["sample_id", "vector"]).combine_chunks()
    place = pc.index_in(samples["item"].combine_chunks(), vectors["sample_id"].combine_chunks())
    return samples.append_column("vector", vectors["vector"].take(place))


def _read_folder(one: EvaluationSet, files: dict[str, Path], clip: ClipSettings | None) -> pa.Table:
    use_cores()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {} if clip is None else clip.model_dump(include={"resize_mode", "precision", "compile"})
    model = None if clip is None else load_clip(clip.model, clip.pretrained, device, **options)
    tables = []
    names = list(files)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        pictures = [_decoded(one, files[name]) for name in some]
        columns: dict[str, Any] = {"item": pa.array(some, pa.string())}
        prints = [asdict(picture.fingerprint) for picture in pictures]
        for column in FINGERPRINT_COLUMNS:
            columns[column] = pa.array([found[column] for found in prints], SAMPLES.field(column).type)
        if model is not None and clip is not None:
            seen = model.encode_pictures([picture.jpeg for picture in pictures], clip.batch_size).astype(np.float16)
            columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(seen.ravel()), model.dim)
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _decoded(one: EvaluationSet, path: Path) -> Picture:
    found = decode(path.read_bytes(), AcquireSettings())
    if not isinstance(found, Picture):
        raise InputError(
            f"{_KEY}.{one.name}: {path} is no picture that can be read ({found.message}); mend or remove it"
        )
    return found


def _run(name: str | None) -> RunFolder | None:
    """The run that `name` is the folder of."""
    run = None if name is None else RunFolder(name)
    return run if run is not None and run.path("manifests", Stage.ACQUIRE).exists() else None


def _files(one: EvaluationSet) -> dict[str, Path]:
    """The picture files of a set, by their path in its folder."""
    folder = open_path(one.pictures or "")
    if not folder.is_dir():
        raise InputError(f"{_KEY}.{one.name}: pictures: {folder} is no folder; name a folder of pictures or of a run")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if not paths:
        raise InputError(f"{_KEY}.{one.name}: pictures: {folder} holds no picture ({' '.join(sorted(_PICTURES))})")
    return {str(path.relative_to(folder)): path for path in paths}


def _folder_content(files: dict[str, Path]) -> Any:
    return [(name, (found := path.stat()).st_size, found.st_mtime) for name, path in files.items()]


def _question_file(one: EvaluationSet) -> Path:
    path = Path(one.questions or "")
    if not path.is_file():
        raise InputError(f"{_KEY}.{one.name}: questions: there is no file {path}")
    return path


def _questions(one: EvaluationSet) -> pa.Array | None:
    if one.questions is None:
        return None
    path = _question_file(one)
    try:
        if path.suffix.lower() == ".parquet":
            found = read_parquet(path, columns=["question"])["question"].combine_chunks().cast(pa.string()).drop_null()
        else:
            lines = [line for line in path.read_text().splitlines() if line.strip()]
            found = pa.array(_from_json(lines) if path.suffix.lower() == ".jsonl" else lines, pa.string())
    except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{_KEY}.{one.name}: questions: {path} cannot be read ({error}); it must be Parquet with a column "
            "'question', JSON lines that are texts or have a key 'question', or plain text"
        ) from error
    if not len(found):
        raise InputError(f"{_KEY}.{one.name}: questions: {path} holds no question")
    return found


def _from_json(lines: list[str]) -> Iterator[str]:
    for line in lines:
        said = json.loads(line)
        yield said if isinstance(said, str) else said["question"]
