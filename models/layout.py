"""Where a picture's tokens come from: a function of its width and height, known without weights or pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from models.pictures import PictureFormat
from models.tiling import Tiling

_KEPT_ORDERS = 512
_KEPT_COUNTS = 1 << 16


@dataclass(frozen=True)
class PictureLayout:
    """Tiling, tower and connector as far as they decide how many tokens a picture has, and which.

    Attributes:
        tiling: makes tiles of the picture.
        format: how the tower wants each tile.
        grid: rows and columns of embeddings that the connector makes of a tile.
    """

    tiling: Tiling
    format: PictureFormat
    grid: tuple[int, int]

    @property
    def tile_tokens(self) -> int:
        """Embeddings that the connector makes of a tile."""
        return self.grid[0] * self.grid[1]

    def tiles(self, width: int, height: int) -> int:
        """Tiles of a picture of this size, pixels."""
        return _tiles(self, width, height)

    def tokens(self, width: int, height: int) -> int:
        """Places that a picture of this size takes in the language model's sequence."""
        return _tokens(self, width, height)

    def order(self, width: int, height: int) -> np.ndarray:
        """For each of the picture's tokens, in order, which embedding it is.

        Returns:
            int64 [tokens]: a place among the embeddings of the picture's tiles [tiles * tile_tokens], or -1 - n for the
            tiling's learned embedding n.
        """
        return _order(self, width, height)

    def orders(self, sizes: Sequence[tuple[int, int]]) -> torch.Tensor | None:
        """`order` of several pictures, whose tiles stand one after the other.

        Args:
            sizes: width and height of each.

        Returns:
            int64 [tokens of all]; None where they are all embeddings, as they stand.
        """
        if not self.tiling.rearranges or not sizes:
            return None
        orders, begin = [], 0
        for size in sizes:
            order = self.order(*size)
            orders.append(np.where(order < 0, order, order + begin))
            begin += self.tiles(*size) * self.tile_tokens
        return torch.from_numpy(np.concatenate(orders))

    def tensor(self, picture: Image.Image) -> torch.Tensor:
        """The tiles of a picture of any size and mode: float32 [tiles, 3, size, size]."""
        return self.tiling.tensor(picture, self.format)


@lru_cache(_KEPT_COUNTS)
def _tiles(layout: PictureLayout, width: int, height: int) -> int:
    return layout.tiling.tiles(width, height, layout.format)


@lru_cache(_KEPT_COUNTS)
def _tokens(layout: PictureLayout, width: int, height: int) -> int:
    if layout.tiling.rearranges:
        return len(layout.order(width, height))
    return layout.tiles(width, height) * layout.tile_tokens


@lru_cache(_KEPT_ORDERS)
def _order(layout: PictureLayout, width: int, height: int) -> np.ndarray:
    return layout.tiling.order(width, height, layout.format, layout.grid)
