"""What every tiling is: the tiles that it makes of a picture, and the order in which their embeddings are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from models.pictures import PictureFormat
from schemas.settings import Settings

#: In an order: the learned embedding that ends a row.
NEWLINE = -1


class Tiling(Settings, ABC):
    """One way to make a vision tower's squares of a picture. Its name in a recipe is the name of its file.

    Tiles and order depend on a picture's width and height alone, so lengths are known without reading pictures.

    Attributes:
        specials: how many learned embeddings of its own it puts among those of the picture.
        rearranges: whether `order` is anything but all embeddings of all tiles, one after the other.
    """

    specials: ClassVar[int] = 0
    rearranges: ClassVar[bool] = False

    @classmethod
    def name(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    def check(self, form: PictureFormat, grid: tuple[int, int]) -> None:
        """Whether it works with this tower and connector.

        Args:
            grid: rows and columns of embeddings that the connector makes of a tile.

        Raises:
            InputError: it does not.
        """

    def tiles(self, width: int, height: int, form: PictureFormat) -> int:
        """How many tiles a picture of this size becomes."""
        return 1

    def order(self, width: int, height: int, form: PictureFormat, grid: tuple[int, int]) -> np.ndarray:
        """For each of a picture's tokens, in order, which embedding it is.

        Returns:
            int64 [M]: a place among the embeddings of all tiles (tile by tile, row by row), or -1 - n for the learned
            embedding n.
        """
        return np.arange(self.tiles(width, height, form) * grid[0] * grid[1])

    @abstractmethod
    def tensor(self, picture: Image.Image, form: PictureFormat) -> torch.Tensor:
        """The tiles of a picture of any size and mode, normalized: float32 [tiles, 3, size, size]."""


def in_rows(tiles: np.ndarray) -> np.ndarray:
    """Tiles' embeddings [down, across, rows, columns] as they lie in the picture: [down * rows, across * columns]."""
    down, across, rows, columns = tiles.shape
    return tiles.transpose(0, 2, 1, 3).reshape(down * rows, across * columns)


def with_newlines(rows: np.ndarray) -> np.ndarray:
    """Rows [R, C] one after the other, each with a newline at its end: [R * (C + 1)]."""
    return np.concatenate([rows, np.full((len(rows), 1), NEWLINE)], axis=1).ravel()
