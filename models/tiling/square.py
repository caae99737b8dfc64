"""The whole picture, squashed to one square."""

from __future__ import annotations

import torch
from PIL import Image

from models.pictures import PictureFormat
from models.tiling.base import Tiling


class Square(Tiling):
    """Squashes a picture to the tower's square, whatever its shape."""

    def tensor(self, picture: Image.Image, form: PictureFormat) -> torch.Tensor:
        return form.tensor(picture)[None]
