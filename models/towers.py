"""Vision towers: pictures in, features of their patches out."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from dataclasses import dataclass
from functools import cached_property

import open_clip
import torch
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from PIL import Image
from pydantic import Field
from torch import nn
from transformers import CLIPImageProcessor

from models.clip import PACKAGED_MODEL, load_clip
from schemas.errors import InputError
from schemas.settings import Settings


class VisionSettings(Settings):
    """Which vision tower looks at the pictures, and which of its layers the language model sees."""

    model: str = Field(
        default=PACKAGED_MODEL, description="an OpenCLIP model name whose vision tower is OpenCLIP's own ViT"
    )
    pretrained: str = Field(
        default="packaged",
        description="an OpenCLIP tag, a weights file, 'packaged' (shipped with Sluice) or 'none' (untrained)",
    )
    layer: int = Field(
        default=-2,
        description="which hidden state, counted as transformers does: -1 is the last block's output, "
        "-2 the last but one's; 1 is the first block's",
    )


@dataclass(frozen=True)
class PictureFormat:
    """How a tower wants its pictures: squashed to a square of `size` pixels, then normalized.

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
    def tokens(self) -> int:
        """Patches in a picture: how many tokens it takes."""
        return (self.size // self.patch) ** 2

    @cached_property
    def processor(self) -> CLIPImageProcessor:
        """The image processor of transformers that is exported with the model, so both see the same pixels."""
        side = {"height": self.size, "width": self.size}
        return CLIPImageProcessor(
            size=side, crop_size=side, do_center_crop=False, image_mean=list(self.mean), image_std=list(self.std)
        )

    def tensor(self, picture: Image.Image) -> torch.Tensor:
        """A picture of any size and mode as float32 [3, size, size]."""
        return self.processor(images=picture, return_tensors="pt")["pixel_values"][0]


def picture_format(settings: VisionSettings) -> PictureFormat:
    """The tower's picture format, without loading its weights.

    Raises:
        InputError: there is no such model, or its tower is not a ViT over square pictures.
    """
    config = open_clip.get_model_config(settings.model.replace("/", "-"))
    if config is None:
        raise InputError(f"model.vision: no OpenCLIP model is called '{settings.model}'")
    vision = config["vision_cfg"]
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    if "timm_model_name" in vision or not isinstance(vision.get("layers", 12), int) or not isinstance(size, int):
        raise InputError(
            f"model.vision: the tower of '{settings.model}' is not OpenCLIP's own ViT over square pictures; "
            f"choose a model such as ViT-B-32 or ViT-L-14-336"
        )
    tag = open_clip.get_pretrained_cfg(settings.model, settings.pretrained)
    standard = PreprocessCfg()
    mean, std = tag.get("mean") or standard.mean, tag.get("std") or standard.std
    return PictureFormat(size, patch, tuple(mean), tuple(std))


class VisionTower(nn.Module):
    """An OpenCLIP vision transformer of which one hidden state is read.

    Attributes:
        visual: the whole `open_clip.transformer.VisionTransformer`.
        format: how it wants its pictures.
        width: channels of its features.
    """

    def __init__(self, settings: VisionSettings, seed: int = 0) -> None:
        """
        Raises:
            InputError: no such model, weights or layer, or a tower of another make.
        """
        super().__init__()
        self.format = picture_format(settings)
        visual = load_clip(settings.model, settings.pretrained, seed=seed).model.visual
        if not isinstance(visual, VisionTransformer):
            raise InputError(f"model.vision: the tower of '{settings.model}' is not OpenCLIP's own ViT")
        blocks = len(visual.transformer.resblocks)
        self._block = settings.layer + blocks if settings.layer < 0 else settings.layer - 1
        if not 0 <= self._block < blocks:
            raise InputError(
                f"model.vision.layer: '{settings.model}' has layers 1 to {blocks}, or -1 to -{blocks}; "
                f"got {settings.layer}"
            )
        visual.patch_dropout = nn.Identity()
        self.visual = visual
        self.width = visual.conv1.out_channels
        for unused in (*visual.transformer.resblocks[self._block + 1 :], visual.ln_post):
            unused.requires_grad_(False)
        if visual.proj is not None:
            visual.proj.requires_grad_(False)

    def picture_tensor(self, picture: Image.Image) -> torch.Tensor:
        """A picture of any size and mode as float32 [3, H, W], as the exported model's processor makes it."""
        return self.format.tensor(picture)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Pixels [P, 3, H, W] -> features of the patches [P, N, C], row by row, without the class token."""
        return self.visual.forward_intermediates(
            pixel_values.to(self.visual.conv1.weight.dtype),
            indices=[self._block],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )["image_intermediates"][0]
