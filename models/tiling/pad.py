"""The whole picture in its own shape, padded to one square."""

from __future__ import annotations

from functools import lru_cache

import torch
from PIL import Image
from transformers import LlavaImageProcessor

from models.pictures import PictureFormat
from models.tiling.base import Tiling


class Pad(Tiling):
    """Pads a picture to a square with the tower's mean colour (LLaVA-1.5, Liu et al. 2024, section 3.3)."""

    def tensor(self, picture: Image.Image, form: PictureFormat) -> torch.Tensor:
        return pad_processor(form)(images=picture, return_tensors="pt")["pixel_values"]


@lru_cache
def pad_processor(form: PictureFormat) -> LlavaImageProcessor:
    """The image processor of transformers that pads so; it is exported with the model."""
    return LlavaImageProcessor(do_pad=True, **form.processing)
