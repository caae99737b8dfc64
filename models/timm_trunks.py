"""Vision transformers of timm: by themselves, or as the trunk of an OpenCLIP model's tower."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import difflib
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg, load_state_dict
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from models.pictures import PictureFormat
from schemas.errors import InputError, SluiceError

#: What the names of timm's models begin with in a recipe.
TIMM = "timm/"


def timm_format(model: str, pretrained: str, image_size: int | None) -> PictureFormat:
    """The picture format of `timm/NAME`, without its weights.

    Raises:
        InputError: no such model, tag or file, or it is not a ViT over square pictures.
    """
    name, tag = _known(model, pretrained)
    square = vit_square(name, image_size)
    if square is None:
        raise InputError(
            f"model.vision: '{model}' is not a ViT over square pictures; choose a model such as "
            f"timm/vit_large_patch14_reg4_dinov2"
        )
    config = get_pretrained_cfg(f"{name}.{tag}" if tag else name)
    if config is None:
        raise InputError(f"model.vision: timm does not say how the pictures of '{model}' are normalized")
    return PictureFormat(*square, config.mean, config.std)


@lru_cache
def vit_square(name: str, image_size: int | None = None) -> tuple[int, int] | None:
    """Sides of the square and of the patches of a ViT of timm, pixels; None where it is no ViT over square pictures."""
    options: dict[str, Any] = {"img_size": image_size} if image_size else {}
    try:
        with torch.device("meta"):
            trunk = timm.create_model(name, num_classes=0, **options)
    except TypeError:  # the size is not to be chosen
        return None
    if not isinstance(trunk, VisionTransformer | Eva) or len(set(trunk.patch_embed.img_size)) > 1:
        return None
    return trunk.patch_embed.img_size[0], trunk.patch_embed.patch_size[0]


def load_timm(model: str, pretrained: str, image_size: int | None, seed: int) -> Any:
    """The ViT of `timm/NAME`, in eval mode; untrained weights are drawn from `seed`.

    Raises:
        InputError: as `timm_format` does, or the file does not hold its weights.
        SluiceError: the weights could not be fetched.
    """
    name, tag = _known(model, pretrained)
    options: dict[str, Any] = {"img_size": image_size} if image_size else {}
    if tag is None and pretrained != "none":
        options["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            full = f"{name}.{tag}" if tag else name
            trunk = timm.create_model(full, pretrained=pretrained != "none", num_classes=0, **options)
        if tag is None and pretrained != "none" and (missing := _missing(trunk, pretrained)):
            raise ValueError(f"it lacks {missing[0]}")
        return trunk.eval()
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError, pickle.UnpicklingError) as error:
        cause = str(error).splitlines()[0]
        if tag is None:
            raise InputError(f"model.vision: {pretrained} does not hold weights of {model}: {cause}") from error
        raise SluiceError(
            f"model.vision: cannot load {model} ({pretrained}): {cause}; is the model hub reachable?"
        ) from error


def read_up_to(trunk: Any, last: int) -> None:
    """Takes off what lies behind the last block that is read."""
    trunk.prune_intermediate_layers([last], prune_norm=True)


def _missing(trunk: Any, file: str) -> list[str]:
    """Weights that are not in the file: timm leaves these as they are."""
    return sorted(trunk.state_dict().keys() - load_state_dict(file).keys())


def _known(model: str, pretrained: str) -> tuple[str, str | None]:
    """timm's name of a model, and the tag; None for `none` and files.

    Raises:
        InputError: no such model, tag or file.
    """
    name = model.removeprefix(TIMM)
    if not timm.is_model(name) or "." in name:
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=1)
        hint = f"did you mean '{TIMM}{near[0]}'? (a tag is given as 'pretrained')" if near else "see timm.list_models()"
        raise InputError(f"model.vision: no timm model is called '{name}'; {hint}")
    tags = [full.removeprefix(f"{name}.") for full in get_arch_pretrained_cfgs(name) if full != name]
    if pretrained in tags:
        return name, pretrained
    if pretrained == "none" or Path(pretrained).is_file():
        return name, None
    raise InputError(
        f"model.vision: '{pretrained}' is neither a tag of {model} nor a file; known tags: {', '.join(tags) or 'none'}"
    )
