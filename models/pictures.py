"""How a vision tower wants its pictures."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from transformers import CLIPImageProcessor


@dataclass(frozen=True)
class PictureFormat:
    """How a tower wants its pictures: squares of `size` pixels, normalized.

    Attributes:
        size: side of the square, pixels.
        patch: side of a patch, pixels.
        mean, std: of each colour, for values from 0 to 1.
    """

    size: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def side(self) -> int:
        """Patches along a side of the square."""
        return self.size // self.patch

    @property
    def mean_colour(self) -> tuple[int, int, int]:
        """The colour that becomes 0 when it is normalized, from 0 to 255."""
        red, green, blue = (int(value * 255) for value in self.mean)
        return red, green, blue

    @property
    def processing(self) -> dict[str, Any]:
        """What image processors of transformers are told for this tower."""
        side = {"height": self.size, "width": self.size}
        return {
            "size": side,
            "crop_size": side,
            "do_center_crop": False,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }

    @cached_property
    def processor(self) -> CLIPImageProcessor:
        """The image processor of transformers that squashes a picture to the square."""
        return CLIPImageProcessor(**self.processing)

    def tensor(self, picture: Image.Image) -> torch.Tensor:
        """A picture of any size and mode, squashed, as float32 [3, size, size]."""
        return self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
