"""A picture in tiles, after a small version of the whole."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PositiveInt
from transformers import LlavaNextImageProcessor
from transformers.image_processing_utils import select_best_resolution

from models.pictures import PictureFormat
from models.tiling.base import Tiling, in_rows, with_newlines

Grids = tuple[tuple[PositiveInt, PositiveInt], ...]


class Anyres(Tiling):
    """AnyRes (LLaVA-NeXT, Liu et al. 2024): the whole picture squashed, then tiles of it in its own shape.

    The picture is fitted into the grid of tiles that shows most of it, and padded to it. Embeddings that saw nothing
    but padding are left out, and a learned newline ends each row. Tiles and tokens are those of transformers'
    `LlavaNextForConditionalGeneration`.
    """

    specials: ClassVar[int] = 1
    rearranges: ClassVar[bool] = True

    grids: Grids = Field(
        default=((1, 2), (2, 1), (2, 2), (3, 1), (1, 3)),
        min_length=1,
        description="rows and columns of tiles; the one that shows most of a picture is taken",
    )

    def tiles(self, width: int, height: int, form: PictureFormat) -> int:
        down, across = self._grid(width, height, form)
        return 1 + down * across

    def order(self, width: int, height: int, form: PictureFormat, grid: tuple[int, int]) -> np.ndarray:
        rows, columns = grid
        down, across = self._grid(width, height, form)
        tiles = np.arange(down * across * rows * columns).reshape(down, across, rows, columns)
        whole = in_rows(tiles) + rows * columns
        if width / height > across / down:
            seen = whole[_middle(len(whole), height * across * rows / width)]
        else:
            seen = whole[:, _middle(whole.shape[1], width * down * columns / height)]
        return np.concatenate([np.arange(rows * columns), with_newlines(seen)])

    def tensor(self, picture: Image.Image, form: PictureFormat) -> torch.Tensor:
        return _processor(form, self.grids)(images=picture, return_tensors="pt")["pixel_values"][0]

    def _grid(self, width: int, height: int, form: PictureFormat) -> tuple[int, int]:
        """Rows and columns of the grid for a picture of this size."""
        high, wide = select_best_resolution((height, width), _pixels(form, self.grids))
        return high // form.size, wide // form.size


@lru_cache
def _processor(form: PictureFormat, grids: Grids) -> LlavaNextImageProcessor:
    return LlavaNextImageProcessor(image_grid_pinpoints=_pixels(form, grids), **form.processing)


def _pixels(form: PictureFormat, grids: Grids) -> list[list[int]]:
    """Height and width of each grid."""
    return [[down * form.size, across * form.size] for down, across in grids]


def _middle(rows: int, shown: float) -> slice:
    """Of `rows` the ones in the middle that show the picture, whose share is `shown` rows; one at least."""
    padding = (rows - max(1, int(round(shown, 7)))) // 2
    return slice(padding, rows - padding)
