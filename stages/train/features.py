"""Picture features of a frozen vision tower, computed once: training shows the same pictures many times."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.full import VisionLanguageModel
from stages.feed.reader import PackReader, decode

log = logging.getLogger("sluice")

#: Pictures in one forward pass. Fixed, so that features do not depend on how training batches them.
_CHUNK = 32


class FeatureStore:
    """Features of all pictures of a reader, float16 [pictures, N, C], in a memory-mapped file."""

    def __init__(self, path: Path, reader: PackReader) -> None:
        self.path, self.reader = path, reader
        self.features = np.load(path, mmap_mode="r")

    def read(self, samples: Sequence[str]) -> torch.Tensor:
        """Features of `samples`, float32 [len(samples), N, C]."""
        numbers = np.searchsorted(self.reader.pictured, [self.reader.number(sample) for sample in samples])
        return torch.from_numpy(self.features[numbers].astype(np.float32))

    @staticmethod
    def gigabytes(model: VisionLanguageModel, reader: PackReader, precision: str) -> float:
        """Size of the file that `build` would write."""
        one = _features(model, reader, reader.pictured[:1], precision)
        return one.nbytes * len(reader.pictured) / 1e9

    @classmethod
    def build(cls, path: Path, model: VisionLanguageModel, reader: PackReader, precision: str) -> FeatureStore:
        """Computes what is not there yet; `path` appears when it is whole."""
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            pictured = reader.pictured
            log.info("computing picture features of %d samples", len(pictured))
            shape = (len(pictured), *_features(model, reader, pictured[:1], precision).shape[1:])
            whole = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for begin in range(0, len(pictured), _CHUNK):
                numbers = pictured[begin : begin + _CHUNK]
                whole[begin : begin + len(numbers)] = _features(model, reader, numbers, precision)
            whole.flush()
            os.replace(temporary, path)
        return cls(path, reader)


@torch.no_grad()
def _features(model: VisionLanguageModel, reader: PackReader, numbers: np.ndarray, precision: str) -> np.ndarray:
    """Features of the samples with these numbers, float16 [len(numbers), N, C]."""
    device = next(model.parameters()).device
    jpegs = reader.map(reader.jpeg, numbers.tolist())
    pixels = torch.stack([model.vision.picture_tensor(decode(jpeg)) for jpeg in jpegs])
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        return model.vision(pixels.to(device)).to(torch.float16).cpu().numpy()
