"""Vision towers: the vision half of any OpenCLIP ViT, giving the patch features of one layer."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import nn

import models.compat  # noqa: F401
import open_clip
from open_clip.transformer import VisionTransformer

from models.clip import PACKAGED_MODEL, load_clip
from schemas.errors import InputError
from schemas.settings import Settings


class VisionSettings(Settings):
    """The vision tower, and which layer's patch features the connector gets."""

    model: str = Field(PACKAGED_MODEL, description="an OpenCLIP model name")
    pretrained: str = Field(
        "packaged", description="an OpenCLIP tag, a weights file, 'packaged' (shipped with Sluice) or 'none' (untrained)"
    )
    layer: int = Field(
        -2, lt=0, description="which block's output: -1 the last, -2 the last but one (LLaVA's choice), and so on"
    )


def picture_tokens(settings: VisionSettings) -> int:
    """How many features, and so tokens, one picture becomes; reads the model's config, loads no weights.

    Raises:
        InputError: no such OpenCLIP model, or it is no plain ViT.
    """
    config = open_clip.get_model_config(settings.model)
    vision = (config or {}).get("vision_cfg", {})
    if "patch_size" not in vision or "timm_model_name" in vision or isinstance(vision.get("layers"), list):
        raise InputError(f"model.vision.model: '{settings.model}' is no OpenCLIP ViT; choose one such as ViT-L-14")
    return (vision["image_size"] // vision["patch_size"]) ** 2


class VisionTower(nn.Module):
    """The vision transformer of an OpenCLIP model, up to the chosen layer.

    Attributes:
        image_size: side of the square that it sees, pixels.
        num_patches: features per picture, N.
        width: length of a feature, C.

    Raises:
        InputError: the model is no plain ViT, or has not so many layers.
    """

    def __init__(self, settings: VisionSettings, seed: int = 0) -> None:
        super().__init__()
        clip = load_clip(settings.model, settings.pretrained, seed=seed)
        visual = clip.model.visual
        if not isinstance(visual, VisionTransformer):
            raise InputError(f"model.vision.model: '{settings.model}' is no plain ViT; choose one such as ViT-L-14")
        blocks = len(visual.transformer.resblocks)
        if -settings.layer > blocks:
            raise InputError(f"model.vision.layer: {settings.layer}, but '{settings.model}' has {blocks} layers")
        self.visual = visual
        self.block = blocks + settings.layer
        self.image_size: int = visual.image_size[0]
        self.patch_size: int = visual.patch_size[0]
        self.num_patches: int = visual.grid_size[0] * visual.grid_size[1]
        self.width: int = visual.conv1.out_channels
        self.mean: tuple[float, ...] = tuple(visual.preprocess_cfg["mean"])
        self.std: tuple[float, ...] = tuple(visual.preprocess_cfg["std"])

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Patch features without the class token.

        Args:
            pixel_values: float [P, 3, image_size, image_size], normalized.

        Returns:
            [P, num_patches, width]: what transformers' `CLIPVisionModel` has at `hidden_states[layer][:, 1:]`.
        """
        out = self.visual.forward_intermediates(
            pixel_values, indices=[self.block], stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        return out["image_intermediates"][0]

    def picture_tensor(self, picture: Image.Image) -> torch.Tensor:
        """A picture as float32 [3, image_size, image_size]: squashed to the square (bicubic) and normalized.

        The arithmetic is that of transformers' CLIP image processor, so an exported model sees the same numbers.
        """
        side = self.image_size
        resized = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, np.float32) / 255
        pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
