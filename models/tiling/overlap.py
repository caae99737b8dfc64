"""A picture in crops that overlap, after a small version of the whole."""

from __future__ import annotations

from itertools import product
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from pydantic import Field, NonNegativeInt

from models.pictures import PictureFormat
from models.tiling.base import NEWLINE, Tiling, in_rows, with_newlines
from schemas.errors import InputError

_START, _END = NEWLINE - 1, NEWLINE - 2


class Overlap(Tiling):
    """Overlapping crops (Molmo, Deitke et al. 2024, section 2): each patch is read from the crop that sees around it.

    The picture is fitted, in its own shape, to a canvas of crops that overlap by the margins, and padded to it with
    the tower's mean colour. Of each crop the margins are read only where no other crop lies. The whole picture in one
    crop comes first. Learned embeddings begin and end both, and end each row.
    """

    specials: ClassVar[int] = 3
    rearranges: ClassVar[bool] = True

    crops: int = Field(default=12, ge=1, description="most crops of a picture, beside the one of the whole")
    margins: tuple[NonNegativeInt, NonNegativeInt] = Field(
        default=(4, 4), description="patches at a crop's left and top, and at its right and bottom, that others see too"
    )

    def check(self, form: PictureFormat, grid: tuple[int, int]) -> None:
        if sum(self.margins) >= form.side:
            raise InputError(
                f"model.tiling.margins: {self.margins[0]} + {self.margins[1]} patches leave nothing of a tower that "
                f"sees {form.side} x {form.side}; choose smaller ones"
            )
        for embeddings in grid:
            pooled, left = divmod(form.side, embeddings)
            if left or any(margin % pooled for margin in self.margins):
                raise InputError(
                    f"model.tiling: crops of {form.side} patches a side, with margins of {self.margins[0]} and "
                    f"{self.margins[1]}, cannot be cut where the connector pools {form.side} to {embeddings}; choose "
                    "multiples, or another connector"
                )

    def tiles(self, width: int, height: int, form: PictureFormat) -> int:
        down, across = self._grid(width, height, form)
        return 1 + down * across

    def order(self, width: int, height: int, form: PictureFormat, grid: tuple[int, int]) -> np.ndarray:
        rows, columns = grid
        down, across = self._grid(width, height, form)
        first = np.arange(rows * columns).reshape(rows, columns)
        crops = np.arange(down * across * rows * columns).reshape(down, across, rows, columns) + rows * columns
        whole = in_rows(crops)[self._kept(down, rows, form)][:, self._kept(across, columns, form)]
        begin, end = np.array([_START]), np.array([_END])
        return np.concatenate([begin, with_newlines(first), end, begin, with_newlines(whole), end])

    def tensor(self, picture: Image.Image, form: PictureFormat) -> torch.Tensor:
        picture = picture.convert("RGB")
        down, across = self._grid(*picture.size, form)
        window, both = self._window(form)
        # A tower's size need not be a multiple of its patch: it looks at no pixel of the rest.
        rest = form.size - form.side * form.patch
        canvas = _fitted(picture, across * window + both + rest, down * window + both + rest, form)
        corners = [(column * window, row * window) for row, column in product(range(down), range(across))]
        crops = [canvas.crop((x, y, x + form.size, y + form.size)) for x, y in corners]
        return torch.stack([form.tensor(crop) for crop in (_fitted(picture, form.size, form.size, form), *crops)])

    def _grid(self, width: int, height: int, form: PictureFormat) -> tuple[int, int]:
        """Rows and columns of crops: those that enlarge the picture least, or shrink it least where all do."""
        window, both = self._window(form)
        room = (max(1, height - both), max(1, width - both))
        counts = range(1, self.crops + 1)
        grids = [(down, across) for down in counts for across in counts if down * across <= self.crops]
        # Of grids that are as good the smallest is taken.
        grids.sort(key=lambda grid: (grid[0] * grid[1], grid[0]))
        scales = {grid: min(grid[0] * window / room[0], grid[1] * window / room[1]) for grid in grids}
        enlarging = [grid for grid, scale in scales.items() if scale >= 1]
        return min(enlarging, key=scales.__getitem__) if enlarging else max(scales, key=scales.__getitem__)

    def _window(self, form: PictureFormat) -> tuple[int, int]:
        """Pixels from a crop to the next one, and pixels of both margins."""
        both = sum(self.margins) * form.patch
        return form.side * form.patch - both, both

    def _kept(self, crops: int, embeddings: int, form: PictureFormat) -> np.ndarray:
        """Which of the rows (or columns) of embeddings of `crops` crops, one after the other, are read: bool."""
        pooled = form.side // embeddings
        kept = np.ones((crops, embeddings), bool)
        kept[1:, : self.margins[0] // pooled] = False
        kept[:-1, embeddings - self.margins[1] // pooled :] = False
        return kept.ravel()


def _fitted(picture: Image.Image, width: int, height: int, form: PictureFormat) -> Image.Image:
    """The picture as large as it fits into the middle of a canvas of this size."""
    scale = min(width / picture.width, height / picture.height)
    size = min(width, max(1, round(picture.width * scale))), min(height, max(1, round(picture.height * scale)))
    canvas = Image.new("RGB", (width, height), form.mean_colour)
    small = picture.resize(size, Image.Resampling.BICUBIC)
    canvas.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas
