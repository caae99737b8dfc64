"""Picture features of a frozen vision tower, computed once: training shows the same pictures many times."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.full import VisionLanguageModel
from models.layout import PictureLayout
from schemas.errors import SluiceError
from stages.feed.reader import PackReader, decode

log = logging.getLogger("sluice")

#: Tiles in one forward pass. Fixed, so that features do not depend on how training batches them.
_CHUNK = 32


class FeatureStore:
    """Features of all pictures of a reader, float16 [tiles of all pictures, N, C], in a memory-mapped file.

    Raises:
        SluiceError: the file is broken, or holds the features of other pictures.
    """

    def __init__(self, path: Path, reader: PackReader, layout: PictureLayout) -> None:
        self.path, self.reader = path, reader
        self._begins = _begins(reader, layout)
        try:
            self.features = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise SluiceError(f"{path} cannot be read: {error}; remove it, and they are computed again") from error
        if len(self.features) != self._begins[-1]:
            raise SluiceError(
                f"{path} holds the features of {len(self.features)} tiles, but the shards' pictures have "
                f"{self._begins[-1]}; remove it, and they are computed again"
            )

    def read(self, samples: Sequence[str]) -> torch.Tensor:
        """Features of the tiles of `samples`, float32 [tiles, N, C]."""
        places = np.searchsorted(self.reader.pictured, [self.reader.number(sample) for sample in samples])
        rows = [np.arange(self._begins[place], self._begins[place + 1]) for place in places]
        return torch.from_numpy(self.features[np.concatenate(rows)].astype(np.float32))

    @staticmethod
    def gigabytes(model: VisionLanguageModel, reader: PackReader, precision: str) -> float:
        """Size of the file that `build` would write."""
        first = _features(model, reader, reader.pictured[:1], precision)
        return first[0].nbytes * int(_begins(reader, model.layout)[-1]) / 1e9

    @classmethod
    def build(cls, path: Path, model: VisionLanguageModel, reader: PackReader, precision: str) -> FeatureStore:
        """Computes what is not there yet; `path` appears when it is whole."""
        if not path.exists():
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.parent.mkdir(parents=True, exist_ok=True)
            pictured, begins = reader.pictured, _begins(reader, model.layout)
            log.info("computing picture features of %d samples", len(pictured))
            shape = (int(begins[-1]), *_features(model, reader, pictured[:1], precision).shape[1:])
            whole = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            for begin in range(0, len(pictured), _CHUNK):
                numbers = pictured[begin : begin + _CHUNK]
                rows = slice(begins[begin], begins[begin + len(numbers)])
                whole[rows] = _features(model, reader, numbers, precision)
            whole.flush()
            os.replace(temporary, path)
        return cls(path, reader, model.layout)


def _begins(reader: PackReader, layout: PictureLayout) -> np.ndarray:
    """The first tile of each picture among the tiles of all, and the end of the last: int64 [pictures + 1]."""
    sizes = (reader.index[name].take(reader.pictured).to_pylist() for name in ("width", "height"))
    return np.cumsum([0, *(layout.tiles(*size) for size in zip(*sizes, strict=True))])


@torch.no_grad()
def _features(model: VisionLanguageModel, reader: PackReader, numbers: np.ndarray, precision: str) -> np.ndarray:
    """Features of the tiles of the samples with these numbers, float16 [tiles, N, C]."""
    device = next(model.parameters()).device
    jpegs = reader.map(reader.jpeg, numbers.tolist())
    tiles = torch.cat([model.layout.tensor(decode(jpeg)) for jpeg in jpegs])
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = [model.vision(some.to(device)).to(torch.float16).cpu() for some in tiles.split(_CHUNK)]
    return torch.cat(found).numpy()
