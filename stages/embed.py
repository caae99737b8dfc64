"""Embeds every picture that was acquired, and its caption, with CLIP; their cosine is the score."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from models.clip import ClipModel, ClipSettings, load_clip
from models.compat import use_cores
from schemas.errors import SluiceError
from schemas.tables import vectors as vectors_schema
from stages.graph import PartOutput, PartWork
from stages.run_folder import RunFolder
from stages.tar import read_members


class EmbedWork(PartWork):
    """samples/<part>.tar and .parquet -> vectors/<part>.parquet. The model is loaded when the first part needs it.

    Args:
        clip: the model, and how it runs.
        device: where it runs; a GPU where there is one, if None.
    """

    stage: ClassVar[str] = "embed"
    upstream: ClassVar[tuple[str, ...]] = ("acquire",)

    def __init__(self, run: RunFolder, clip: ClipSettings, device: str | None = None) -> None:
        super().__init__(run)
        self.clip = clip
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._weights = clip.weights_digest()

    def settings(self) -> Any:
        # The batch size is in: the last bits of a vector can differ with it.
        fields = {"model", "resize_mode", "batch_size", "precision"}
        # Where the weights are a file, it may lie anywhere: what it holds counts.
        return {**self.clip.model_dump(include=fields), "weights": self._weights or self.clip.pretrained}

    def compute(self, part: int) -> PartOutput:
        samples = self.run.read_table("samples", [part], ["key", "sample_id", "caption", "reason"])
        samples = samples.filter(pc.is_null(samples["reason"]))
        path = self.run.path("samples", f"{part:05d}.tar")
        files = dict(read_members(path, "jpg")) if samples.num_rows else {}
        keys = samples["key"].to_pylist()
        missing = [key for key in keys if key not in files]
        if missing:
            raise SluiceError(f"{path} lacks the picture of sample {missing[0]}; remove it and acquire the part again")
        table = embed(self._model, [files[key] for key in keys], samples, self.clip.batch_size)
        return PartOutput({f"vectors/{part:05d}.parquet": table}, {"embedded": table.num_rows})

    @cached_property
    def _model(self) -> ClipModel:
        clip = self.clip
        use_cores()
        options = clip.model_dump(include={"resize_mode", "precision", "compile"})
        return load_clip(clip.model, clip.pretrained, self.device, **options)


def embed(model: ClipModel, pictures: list[bytes], samples: pa.Table, batch_size: int) -> pa.Table:
    """Vectors and scores in the form of `schemas.tables.vectors`.

    Args:
        pictures: encoded files, one for each row of `samples`.
        samples: columns `sample_id` and `caption`.
    """
    seen = model.encode_pictures(pictures, batch_size)
    said = model.encode_texts(samples["caption"].to_pylist(), batch_size)
    scores = np.einsum("nd,nd->n", seen, said)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(seen.astype(np.float16).ravel()), model.dim)
    columns = [samples["sample_id"], pa.array(scores, pa.float32()), vectors]
    return pa.table(columns, schema=vectors_schema(model.dim))
