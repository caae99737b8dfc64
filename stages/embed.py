"""Embeds every picture that was acquired, and its caption, with CLIP; their cosine is the score."""

from __future__ import annotations

from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.clip import ClipModel, ClipSettings, load_clip
from models.compat import use_cores
from schemas.errors import SluiceError
from schemas.identity import digest, digest_bytes
from schemas.tables import vectors as vectors_schema
from schemas.vocabulary import Stage
from stages.graph import PartOutput, PartWork
from stages.run_folder import RunFolder
from stages.store import read_parquet
from stages.tar import read_members


class EmbedWork(PartWork):
    """samples/<part>.tar and .parquet -> vectors/<part>.parquet. The model is loaded when the first part needs it.

    A further model, `select.models.NAME`, writes vectors/NAME/<part>.parquet and has manifests of its own: adding one
    embeds nothing again with the others.

    When a part is embedded again because some of its pictures changed, the others keep their vectors: those whose
    stored picture, caption, model and settings are what they were. A vector depends on these alone, not on what is
    embedded beside it (see `ClipModel`), so the part's file is byte for byte what embedding all of it would give.

    Args:
        clip: the model, and how it runs.
        device: where it runs; a GPU where there is one, if None.
        name: of a further model; "" is the one that `select.clip` names.
    """

    stage: ClassVar[str] = Stage.EMBED
    version: ClassVar[int] = 2
    upstream: ClassVar[tuple[str, ...]] = (Stage.ACQUIRE,)

    def __init__(self, run: RunFolder, clip: ClipSettings, device: str | None = None, name: str = "") -> None:
        super().__init__(run)
        self.clip = clip
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._folder = vectors_folder(name)
        self._weights = clip.weights_digest()
        self.stage = embed_stage(name)  # type: ignore[misc]

    def settings(self) -> Any:
        # The batch size is in: the last bits of a vector can differ with it.
        fields = {"model", "resize_mode", "batch_size", "precision"}
        # Where the weights are a file, it may lie anywhere: what it holds counts.
        return {**self.clip.model_dump(include=fields), "weights": self._weights or self.clip.pretrained}

    def compute(self, part: int) -> PartOutput:
        samples = self.run.read_table("samples", [part], ["key", "sample_id", "caption", "text_only", "reason"])
        samples = samples.filter(pc.and_not(pc.is_null(samples["reason"]), samples["text_only"].fill_null(False)))
        path = self.run.path("samples", f"{part:05d}.tar")
        files = dict(read_members(path, "jpg")) if samples.num_rows else {}
        keys = samples["key"].to_pylist()
        missing = [key for key in keys if key not in files]
        if missing:
            raise SluiceError(f"{path} lacks the picture of sample {missing[0]}; remove it and acquire the part again")
        samples = samples.append_column("made_from", self._made_from([files[key] for key in keys], samples))
        known = self._former(part, samples)
        new = samples if known is None else samples.filter(pc.invert(_in(samples, known)))
        if known is None or new.num_rows:
            embedded = embed(self._model, [files[key] for key in new["key"].to_pylist()], new, self.clip.batch_size)
            known = embedded if known is None else pa.concat_tables([known, embedded])
        place = pc.index_in(samples["made_from"], known["made_from"].combine_chunks())
        table = known.take(place).set_column(0, "sample_id", samples["sample_id"])
        return PartOutput({f"{self._folder}/{part:05d}.parquet": table}, {"embedded": table.num_rows})

    def _made_from(self, pictures: list[bytes], samples: pa.Table) -> pa.Array:
        """What each row's vector and score depend on."""
        how = digest([self.version, self.settings()])
        captions = samples["caption"].to_pylist()
        digests = [
            digest([how, digest_bytes(picture), caption]) for picture, caption in zip(pictures, captions, strict=True)
        ]
        return pa.array(digests, pa.string())

    def _former(self, part: int, samples: pa.Table) -> pa.Table | None:
        """Those rows of the file that the part had before which `samples` can take over; None where there are none."""
        # A file that cannot be read is made again.
        with suppress(OSError, pa.ArrowInvalid):
            former = read_parquet(self.run.table_path(self._folder, part))
            if "made_from" in former.column_names:
                former = former.filter(_in(former, samples))
                return former if former.num_rows else None
        return None

    @cached_property
    def _model(self) -> ClipModel:
        clip = self.clip
        use_cores()
        options = clip.model_dump(include={"resize_mode", "precision", "compile"})
        return load_clip(clip.model, clip.pretrained, self.device, **options)


def embed_stage(name: str = "") -> str:
    """The stage under which a model's manifests are kept; see `EmbedWork`."""
    return f"{Stage.EMBED.value}-{name}" if name else Stage.EMBED.value


def vectors_folder(name: str = "") -> str:
    """Where in the run folder a model's vectors lie; see `EmbedWork`."""
    return f"vectors/{name}" if name else "vectors"


def embed(model: ClipModel, pictures: list[bytes], samples: pa.Table, batch_size: int) -> pa.Table:
    """Vectors and scores in the form of `schemas.tables.vectors`.

    Args:
        pictures: encoded files, one for each row of `samples`.
        samples: columns `sample_id`, `caption` and `made_from`.
    """
    seen = model.encode_pictures(pictures, batch_size)
    said = model.encode_texts(samples["caption"].to_pylist(), batch_size)
    scores = np.einsum("nd,nd->n", seen, said)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(seen.astype(np.float16).ravel()), model.dim)
    columns = [samples["sample_id"], pa.array(scores, pa.float32()), vectors, samples["made_from"]]
    return pa.table(columns, schema=vectors_schema(model.dim))


def _in(rows: pa.Table, others: pa.Table) -> pa.ChunkedArray:
    """For each of `rows` whether one of `others` was made from the same."""
    return pc.is_in(rows["made_from"], others["made_from"].combine_chunks())
