"""Export of a trained model as a transformers folder: LLaVA's form, which transformers and vLLM load by themselves."""

from __future__ import annotations

import json
import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import save_file
from torch import nn

import models.compat  # noqa: F401
from open_clip.model import QuickGELU
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerBase,
)

from models.chat import prompt_ids
from models.connectors import Mlp2xGelu
from models.full import VisionLanguageModel
from models.towers import VisionTower
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError


def export_llava(model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes `folder` so that `LlavaForConditionalGeneration.from_pretrained(folder)` loads it with nothing missing.

    The keys are LLaVA's first names (`vision_tower.vision_model.*`, `language_model.model.*`), which transformers maps
    by itself and vLLM expects. The folder is put in place by a rename.

    Raises:
        InputError: tower or connector cannot be said in LLaVA's form.
    """
    if not isinstance(model.connector, Mlp2xGelu):
        raise InputError("export: LLaVA's form has only the connector mlp2x_gelu; set model.connector: mlp2x_gelu")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {
        **{f"vision_tower.vision_model.{name}": value for name, value in _vision_state(model.vision).items()},
        **{f"multi_modal_projector.{name}": value for name, value in model.connector.state_dict().items()},
        **_language_state(model.language),
    }
    save_file(
        {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()},
        temporary / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = _config(model, tokenizer)
    _write_json(temporary / "config.json", {**config.to_dict(), "image_token_index": model.image_token_id})
    stops = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "do_sample": False}
    _write_json(temporary / "generation_config.json", stops)
    tokenizer.save_pretrained(temporary)
    _write_processor(model.vision, temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _config(model: VisionLanguageModel, tokenizer: PreTrainedTokenizerBase) -> LlavaConfig:
    vision, visual = model.vision, model.vision.visual
    first = visual.transformer.resblocks[0]
    vision_config = CLIPVisionConfig(
        hidden_size=vision.width,
        intermediate_size=first.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=first.attn.num_heads,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        projection_dim=visual.output_dim,
        hidden_act="quick_gelu" if isinstance(first.mlp.gelu, QuickGELU) else "gelu",
        layer_norm_eps=first.ln_1.eps,
    )
    text_config = type(model.language.config).from_dict(model.language.config.to_dict())
    text_config.architectures = [type(model.language).__name__]
    text_config.vocab_size = model.language.get_input_embeddings().num_embeddings
    config = LlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=model.image_token_id,
        projector_hidden_act="gelu",
        vision_feature_layer=vision.block - len(visual.transformer.resblocks),
        vision_feature_select_strategy="default",
        image_seq_length=vision.num_patches,
        tie_word_embeddings=bool(getattr(text_config, "tie_word_embeddings", False)),
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = "float32"
    return config


def _vision_state(tower: VisionTower) -> dict[str, torch.Tensor]:
    """OpenCLIP's names to those of transformers' `CLIPVisionModel`; its one attention matrix becomes three."""
    visual = tower.visual
    if visual.attn_pool is not None or isinstance(visual.ln_pre, nn.Identity):
        raise InputError("export: this vision tower is not CLIP's own form, which LLaVA's format needs")
    state = visual.state_dict()
    out = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for theirs, ours in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        out |= {f"{theirs}.{kind}": state[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
    for number in range(len(visual.transformer.resblocks)):
        theirs, ours = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            out |= {f"{theirs}.{new}.{kind}": state[f"{ours}.{old}.{kind}"] for new, old in names.items()}
            three = state[f"{ours}.attn.in_proj_{kind}"].chunk(3)
            for new, piece in zip(("q_proj", "k_proj", "v_proj"), three, strict=True):
                out[f"{theirs}.self_attn.{new}.{kind}"] = piece
    return out


def _language_state(language: nn.Module) -> dict[str, torch.Tensor]:
    state = {f"language_model.{name}": value for name, value in language.state_dict().items()}
    if getattr(language.config, "tie_word_embeddings", False):
        state.pop("language_model.lm_head.weight", None)
    return state


def _write_processor(tower: VisionTower, folder: Path) -> None:
    side = tower.image_size
    square = {"height": side, "width": side}
    image = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": square, "resample": 3, "do_center_crop": False, "crop_size": square,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": list(tower.mean), "image_std": list(tower.std),
    }  # fmt: skip
    _write_json(folder / "preprocessor_config.json", image)
    # One additional token stands for the class token, which the strategy "default" takes away again.
    processor = {"processor_class": "LlavaProcessor", "patch_size": tower.patch_size, "num_additional_image_tokens": 1,
                 "vision_feature_select_strategy": "default", "image_token": IMAGE_TOKEN}  # fmt: skip
    _write_json(folder / "processor_config.json", processor)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


@cache
def load_exported(folder: Path) -> tuple[LlavaForConditionalGeneration, Any]:
    """Loads an exported folder with transformers alone: the model in fp32, and its processor (pictures through PIL).

    Raises:
        InputError: the folder holds no such model.
    """
    try:
        model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        processor = AutoProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no exported model: {str(error).splitlines()[0]}") from error
    return model.eval(), processor


@torch.inference_mode()
def ask(folder: Path, picture: Path, question: str, max_new_tokens: int = 64) -> str:
    """The exported model's greedy answer to a question about a picture file.

    Raises:
        InputError: the picture cannot be read, or the folder holds no exported model.
    """
    try:
        with Image.open(picture) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{picture} is not a picture that can be read: {error}") from error
    model, processor = load_exported(folder)
    pixels = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
    patches = (pixels.shape[-1] // processor.patch_size) ** 2
    ids = torch.tensor([prompt_ids(question, processor.tokenizer, patches)])
    out = model.generate(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids),
                         max_new_tokens=max_new_tokens, do_sample=False)  # fmt: skip
    return processor.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
