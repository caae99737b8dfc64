"""Vision towers: tiles of pictures in, features of their patches out."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import nn

from models.clip import PACKAGED_MODEL, ClipSettings, load_network
from models.pictures import PictureFormat
from models.timm_trunks import TIMM, load_timm, read_up_to, timm_format, vit_square
from schemas.errors import InputError
from schemas.identity import digest_file
from schemas.settings import Settings


class VisionSettings(Settings):
    """Which vision tower looks at the pictures, and which of its layers the language model sees."""

    model: str = Field(
        default=PACKAGED_MODEL,
        description="an OpenCLIP model name whose vision tower is a ViT, or timm/NAME, a ViT of timm",
    )
    pretrained: str = Field(
        default="packaged",
        description="an OpenCLIP or timm tag, a weights file, 'packaged' (shipped with Sluice) or 'none' (untrained)",
    )
    layer: int | Annotated[tuple[int, ...], Field(min_length=1)] = Field(
        default=-2,
        description="which hidden state, counted as transformers does: -1 is the last block's output, "
        "-2 the last but one's; 1 is the first block's. Of a list of them the channels are joined",
    )
    image_size: int | None = Field(
        default=None, ge=1, description="side of the square that a timm model sees, pixels; its own where null"
    )

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that are read, in order."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    def weights_digest(self) -> str | None:
        """Digest of the weights file, where the weights are a file: new weights, new features."""
        if not self.model.startswith(TIMM):
            return ClipSettings(model=self.model, pretrained=self.pretrained).weights_digest()
        path = Path(self.pretrained)
        return digest_file(path) if path.is_file() else None


def picture_format(settings: VisionSettings) -> PictureFormat:
    """The tower's picture format, without its weights.

    Raises:
        InputError: there is no such model, or its tower is not a ViT over square pictures.
    """
    if settings.model.startswith(TIMM):
        return timm_format(settings.model, settings.pretrained, settings.image_size)
    config = open_clip.get_model_config(settings.model.replace("/", "-"))
    if config is None:
        raise InputError(f"model.vision: no OpenCLIP model is called '{settings.model}'")
    if settings.image_size is not None:
        raise InputError(
            f"model.vision.image_size: '{settings.model}' has the size it was made for; only timm models have others"
        )
    vision = config["vision_cfg"]
    square: tuple[Any, Any] | None = (vision.get("image_size", 224), vision.get("patch_size", 16))
    if "timm_model_name" in vision:
        square = vit_square(vision["timm_model_name"])
    if square is None or not isinstance(square[0], int) or not isinstance(vision.get("layers", 12), int):
        raise InputError(
            f"model.vision: the tower of '{settings.model}' is not a ViT over square pictures; "
            f"choose a model such as ViT-B-32, ViT-L-14-336 or ViT-SO400M-14-SigLIP-384"
        )
    tag = open_clip.get_pretrained_cfg(settings.model, settings.pretrained)
    standard = PreprocessCfg()
    mean, std = tag.get("mean") or standard.mean, tag.get("std") or standard.std
    return PictureFormat(*square, tuple(mean), tuple(std))


def joint_format(towers: Sequence[VisionSettings]) -> PictureFormat:
    """The picture format of towers side by side: that of the first one.

    Raises:
        InputError: they do not see the same square in the same patches.
    """
    first, *others = [picture_format(tower) for tower in towers]
    for tower, form in zip(towers[1:], others, strict=True):
        if (form.size, form.side) != (first.size, first.side):
            raise InputError(
                f"model.vision: '{towers[0].model}' sees {first.size} pixels in {first.side} x {first.side} patches, "
                f"'{tower.model}' {form.size} pixels in {form.side} x {form.side}; towers side by side need the same "
                f"(a timm model's image_size can be chosen)"
            )
    return first


class VisionTower(nn.Module):
    """A vision transformer, OpenCLIP's own or timm's, of which some hidden states are read.

    Attributes:
        visual: the whole `open_clip.transformer.VisionTransformer`, or a timm model up to the last block that is read.
        format: how it wants its pictures.
        width: channels of its features.
        layer_width: channels of one hidden state.
    """

    visual: Any

    def __init__(self, settings: VisionSettings, seed: int = 0) -> None:
        """
        Raises:
            InputError: no such model, weights or layer, or a tower of another make.
        """
        super().__init__()
        self.format = picture_format(settings)
        if settings.model.startswith(TIMM):
            visual = load_timm(settings.model, settings.pretrained, settings.image_size, seed)
        else:
            visual = load_network(settings.model, settings.pretrained, seed=seed).visual
            visual = visual.trunk if isinstance(visual, TimmModel) else visual
        self._own = isinstance(visual, VisionTransformer)
        blocks = len(visual.transformer.resblocks if self._own else visual.blocks)
        self._blocks = [_block(layer, blocks, settings.model) for layer in settings.layers]
        if self._own:
            _freeze_behind(visual, max(self._blocks))
        else:
            read_up_to(visual, max(self._blocks))
        self.visual = visual
        self.layer_width: int = visual.conv1.out_channels if self._own else visual.embed_dim
        self.width = self.layer_width * len(self._blocks)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tiles [P, 3, H, W] -> features of the patches [P, N, C], row by row, without the class token."""
        found = self.visual.forward_intermediates(
            pixel_values.to(next(self.visual.parameters()).dtype),
            indices=self._blocks,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
        )
        states = found["image_intermediates"] if self._own else found
        if len(states) == len(self._blocks) == 1:
            return states[0]
        # They come in the order of the blocks, each once.
        by_block = dict(zip(sorted(set(self._blocks)), states, strict=True))
        return torch.cat([by_block[block] for block in self._blocks], dim=-1)


class SideBySide(nn.Module):
    """Several towers that look at the same tiles (Prismatic, Karamcheti et al. 2024, section 4.2).

    Their features are joined patch by patch.

    Attributes:
        format: how the first one wants its pictures.
        width: channels of the features.
        layer_width: channels of one hidden state of each.
    """

    def __init__(self, settings: Sequence[VisionSettings], seed: int = 0) -> None:
        """
        Raises:
            InputError: as `VisionTower` does, or the towers do not fit together.
        """
        super().__init__()
        self.format = joint_format(settings)
        towers = [VisionTower(tower, seed) for tower in settings]
        self.towers = nn.ModuleList(towers)
        self.formats = [tower.format for tower in towers]
        self.width = sum(tower.width for tower in towers)
        self.layer_width = sum(tower.layer_width for tower in towers)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Tiles [P, 3, H, W], normalized for the first tower -> features of the patches [P, N, C]."""
        seen = zip(self.towers, self.formats, strict=True)
        return torch.cat([tower(self._as_for(form, pixel_values)) for tower, form in seen], dim=-1)

    def _as_for(self, form: PictureFormat, pixels: torch.Tensor) -> torch.Tensor:
        """The same tiles normalized as another tower wants them."""
        if (form.mean, form.std) == (self.format.mean, self.format.std):
            return pixels
        mean, std, own_mean, own_std = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None]
            for values in (self.format.mean, self.format.std, form.mean, form.std)
        )
        return (pixels.float() * std + mean - own_mean) / own_std


def build_towers(settings: Sequence[VisionSettings], seed: int) -> VisionTower | SideBySide:
    """The one tower, or all of them side by side.

    Raises:
        InputError: a tower cannot be loaded, or they do not fit together.
    """
    return VisionTower(settings[0], seed) if len(settings) == 1 else SideBySide(settings, seed)


def _block(layer: int, blocks: int, model: str) -> int:
    """The number, from 0, of the block whose output `layer` is."""
    block = layer + blocks if layer < 0 else layer - 1
    if not 0 <= block < blocks:
        raise InputError(f"model.vision.layer: '{model}' has layers 1 to {blocks}, or -1 to -{blocks}; got {layer}")
    return block


def _freeze_behind(visual: VisionTransformer, last: int) -> None:
    """Keeps what lies behind the last block that is read out of learning."""
    visual.patch_dropout = nn.Identity()
    for unused in (*visual.transformer.resblocks[last + 1 :], visual.ln_post):
        unused.requires_grad_(False)
    if visual.proj is not None:
        visual.proj.requires_grad_(False)
