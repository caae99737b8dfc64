"""Reference pictures that samples are compared with: a folder of pictures, or those that another run kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import UnidentifiedImageError

from models.clip import ClipSettings, load_clip
from models.compat import use_cores
from schemas.errors import InputError
from schemas.identity import digest
from schemas.vocabulary import Stage, State
from stages.embed import EmbedWork, embed_stage, vectors_folder
from stages.run_folder import WHOLE, RunFolder, parquet_bytes
from stages.select.vectors import matrix
from stages.store import open_path, read_parquet, write_atomically

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_AT_ONCE = 1024


def reference_content(reference: str) -> Any:
    """What the reference holds, so that a change of it is seen: a run's manifests, or names, sizes and times of files.

    Raises:
        InputError: there is no such folder, or it holds neither pictures nor a run.
    """
    run = _run(reference)
    if run is not None:
        embedded = [run.output_digest(Stage.EMBED, part) for part in run.parts()]
        return [run.output_digest(Stage.SELECT, WHOLE), embedded]
    return [(str(path), path.stat().st_size, path.stat().st_mtime) for path in _pictures(reference)]


def reference_vectors(run: RunFolder, reference: str, clip: ClipSettings) -> np.ndarray:
    """The vectors of reference pictures, float16 [pictures, dim].

    Those of a folder are kept in RUN/references, so that they are embedded once.

    Raises:
        InputError: the reference is no folder with pictures and no run, one of its pictures is broken, or the run's
            pictures were not embedded by this model.
    """
    other = _run(reference)
    if other is not None:
        return _kept_vectors(other, clip)
    how = EmbedWork(run, clip).settings()
    path = run.path("references", f"{digest([how, reference_content(reference)])}.parquet")
    if not path.exists():
        vectors = _embedded(_pictures(reference), clip)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        write_atomically(path, parquet_bytes(pa.table({"vector": column})))
    return matrix(read_parquet(path)["vector"])


def _run(reference: str) -> RunFolder | None:
    """The run that `reference` is the folder of."""
    run = RunFolder(reference)
    return run if run.path("recipe.yaml").exists() and run.path("manifests").exists() else None


def _pictures(reference: str) -> list[Path]:
    """The pictures of a folder and of all folders in it, by name."""
    folder = open_path(reference)
    if not folder.is_dir():
        raise InputError(f"select: reference {reference} is no folder; name a folder of pictures or a run")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise InputError(f"select: reference {reference} holds no pictures ({', '.join(sorted(_SUFFIXES))}) and no run")
    return found


def _embedded(paths: list[Path], clip: ClipSettings) -> np.ndarray:
    use_cores()
    options = clip.model_dump(include={"resize_mode", "precision", "compile"})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_clip(clip.model, clip.pretrained, device, **options)
    vectors = []
    for start in range(0, len(paths), _AT_ONCE):
        chosen = paths[start : start + _AT_ONCE]
        try:
            vectors.append(model.encode_pictures([path.read_bytes() for path in chosen], clip.batch_size))
        except (UnidentifiedImageError, OSError):
            for path in chosen:
                _try(model, path)
            raise
    return np.concatenate(vectors).astype(np.float16)


def _try(model: Any, path: Path) -> None:
    try:
        model.encode_pictures([path.read_bytes()])
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"select: reference picture {path} cannot be read: {error}; remove or replace it") from error


def _kept_vectors(run: RunFolder, clip: ClipSettings) -> np.ndarray:
    """The vectors, by this very model, of the pictures that a run kept; of all where it has not selected yet."""
    parts = run.parts()
    further = run.path("manifests").glob(f"{embed_stage()}-*")
    names = ["", *sorted(path.name.removeprefix(embed_stage("")).removeprefix("-") for path in further)]
    fitting = [name for name in names if parts and all(EmbedWork(run, clip, name=name).done(part) for part in parts)]
    if not fitting:
        raise InputError(f"select: the pictures of the reference {run.root} are not all embedded by {clip.model} "
                         f"({clip.pretrained}) with the settings of this recipe")  # fmt: skip
    table = run.read_table(vectors_folder(fitting[0]), parts, ["sample_id", "vector"])
    decisions = run.path("decisions.parquet")
    if decisions.exists():
        kept = read_parquet(decisions, columns=["sample_id", "state"])
        kept = kept.filter(pc.equal(kept["state"], State.KEPT.value))["sample_id"].combine_chunks()
        table = table.filter(pc.is_in(table["sample_id"], kept))
    if not table.num_rows:
        raise InputError(f"select: the reference {run.root} kept no picture")
    return matrix(table["vector"])
