"""The model as a transformers LLaVA folder, which vLLM reads too; and asking such a folder, with transformers alone.

Weights have the names that LLaVA's first checkpoints had: transformers renames them on loading, and vLLM expects them.
"""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from open_clip.transformer import LayerNorm, QuickGELU, ResidualAttentionBlock, VisionTransformer
from PIL import Image, UnidentifiedImageError
from torch import nn
from transformers import (
    AutoProcessor,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from models.chat import exported_template, plain
from models.connectors.mlp2x_gelu import Mlp2xGelu
from models.full import ModelSettings, VisionLanguageModel
from models.tiling.pad import Pad, pad_processor
from models.tiling.square import Square
from models.towers import VisionTower
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError, SluiceError

_VISION = "vision_tower.vision_model."
_VISION_NAMES = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
}
#: OpenCLIP's prefix -> transformers' ("pre_layrnorm" is how it is spelt there).
_VISION_LAYERS = {"ln_pre.": "pre_layrnorm.", "ln_post.": "post_layernorm."}
_BLOCK_LAYERS = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}


def export_llava(model: VisionLanguageModel, tokenizer: Any, settings: ModelSettings, folder: Path) -> None:
    """Writes `folder` so that `LlavaForConditionalGeneration.from_pretrained(folder)` loads all of the model.

    The folder is loaded once as a check before it takes its name; a folder of that name is replaced.

    Raises:
        InputError: LLaVA's form has no place for the tiling, the towers, the connector or the language model.
        SluiceError: transformers does not load what was written, or it cannot be written.
    """
    if not isinstance(model.connector, Mlp2xGelu):
        raise InputError(
            f"model.connector: '{settings.connector}' has no place in transformers' LLaVA, which has two linear layers "
            f"with GELU between them; train with mlp2x_gelu to export"
        )
    if not isinstance(settings.tiling, Square | Pad):
        raise InputError(
            f"model.tiling: '{settings.tiling.name()}' has no place in transformers' LLaVA, which sees a picture as "
            f"one square; train with square or pad to export"
        )
    if not isinstance(model.vision, VisionTower):
        raise InputError(
            f"model.vision: transformers' LLaVA has one tower, not {len(settings.towers)}; train with one to export"
        )
    config = _config(model, model.vision, settings)
    state = {
        **_vision_state(model.vision),
        **{f"multi_modal_projector.{name}": tensor for name, tensor in model.connector.state_dict().items()},
        **_language_state(model.language),
    }
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_torch_state_dict({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, temporary)
        config.save_pretrained(temporary)
        model.language.generation_config.save_pretrained(temporary)
        _save_processor(model, tokenizer, temporary)
        _check(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except OSError as error:
        raise SluiceError(f"cannot write {folder}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class Exported:
    """An exported folder, loaded with transformers alone: a `LlavaForConditionalGeneration`, a `LlavaProcessor`."""

    model: Any
    processor: Any

    @torch.no_grad()
    def answer(self, picture: Image.Image, question: str, max_new_tokens: int = 64) -> str:
        """The greedy answer to a question about a picture."""
        content = [{"type": "image"}, {"type": "text", "text": plain(question, self.processor.tokenizer)}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = self.processor(images=picture, text=prompt, add_special_tokens=False, return_tensors="pt")
        new = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        return self.processor.decode(new[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def load_exported(folder: Path) -> Exported:
    """Loads a folder by `export_llava`.

    Raises:
        InputError: it is not such a folder.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not an exported model (it has no config.json): run the export stage first")
    try:
        model = LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} cannot be loaded as an exported model: {error}") from error
    return Exported(model.eval(), processor)


def ask(folder: Path, picture_path: Path, question: str, max_new_tokens: int = 64) -> str:
    """The greedy answer of an exported model to a question about a picture file.

    Raises:
        InputError: the folder or the picture cannot be read.
    """
    try:
        with Image.open(picture_path) as file:
            picture = file.convert("RGBA" if "transparency" in file.info else file.mode)
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{picture_path} cannot be read as a picture: {error}") from error
    return load_exported(folder).answer(picture, question, max_new_tokens)


def _config(model: VisionLanguageModel, tower: VisionTower, settings: ModelSettings) -> LlavaConfig:
    visual = tower.visual
    if not isinstance(visual, VisionTransformer):
        raise _unfit_tower()
    layer = settings.towers[0].layer
    first = visual.transformer.resblocks[0]
    text = copy.deepcopy(model.language.config)
    text.architectures = [type(model.language).__name__]
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=CLIPVisionConfig(
            hidden_size=tower.layer_width,
            intermediate_size=first.mlp.c_fc.out_features,
            num_hidden_layers=len(visual.transformer.resblocks),
            num_attention_heads=first.attn.num_heads,
            image_size=tower.format.size,
            patch_size=tower.format.patch,
            hidden_act="quick_gelu" if isinstance(first.mlp.gelu, QuickGELU) else "gelu",
            layer_norm_eps=first.ln_1.eps,
            projection_dim=visual.output_dim,
        ),
        text_config=text,
        image_token_index=model.image_token_id,
        image_seq_length=model.layout.tile_tokens,
        vision_feature_layer=layer if isinstance(layer, int) else list(layer),
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=_is_tied(model.language),
        dtype=next(model.language.parameters()).dtype,
    )


def _vision_state(tower: VisionTower) -> dict[str, torch.Tensor]:
    """The tower's weights by the names of `CLIPVisionModel`."""
    visual = tower.visual
    fits = (
        visual.attn_pool is None
        and isinstance(visual.ln_pre, nn.LayerNorm)
        and all(
            type(block) is ResidualAttentionBlock
            and isinstance(block.ln_1, LayerNorm)
            and isinstance(block.ls_1, nn.Identity)
            and isinstance(block.mlp.gelu, QuickGELU | nn.GELU)
            for block in visual.transformer.resblocks
        )
    )
    if not fits:
        raise _unfit_tower()
    state: dict[str, torch.Tensor] = {}
    for name, tensor in visual.state_dict().items():
        if name == "proj":
            continue
        state.update((_VISION + new, weight) for new, weight in _vision_names(name, tensor))
    return state


def _unfit_tower() -> InputError:
    return InputError(
        "model.vision: this tower has layers that transformers' CLIP tower has not (an attention pool, layer scale, no "
        "first norm, or blocks of another make, as SigLIP's and timm's); to export, choose a plain ViT such as ViT-B-32"
    )


def _vision_names(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if name in _VISION_NAMES:
        return [(_VISION_NAMES[name], tensor)]
    if name.startswith("transformer.resblocks."):
        number, inner = name.removeprefix("transformer.resblocks.").split(".", 1)
        prefix = f"encoder.layers.{number}."
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            split = zip("qkv", tensor.chunk(3), strict=True)
            return [(f"{prefix}self_attn.{one}_proj.{kind}", weight.clone()) for one, weight in split]
        layers = _BLOCK_LAYERS
    else:
        prefix, inner, layers = "", name, _VISION_LAYERS
    for old, new in layers.items():
        if inner.startswith(old):
            return [(prefix + new + inner.removeprefix(old), tensor)]
    raise InputError(f"model.vision: transformers' CLIP tower has no place for the weight '{name}'")


def _language_state(language: Any) -> dict[str, torch.Tensor]:
    """The language model's weights; the head only where it is not the embeddings again."""
    state = language.state_dict()
    if _is_tied(language):
        state.pop("lm_head.weight", None)
    for name in state:
        if not name.startswith("model.") and name != "lm_head.weight":
            raise InputError(
                f"model.language: transformers' LLaVA has no place for the weight '{name}' of "
                f"{type(language).__name__}; choose a model built as Llama is (model.*, lm_head)"
            )
    return {f"language_model.{name}": tensor for name, tensor in state.items()}


def _is_tied(language: Any) -> bool:
    return language.get_output_embeddings().weight is language.get_input_embeddings().weight


def _save_processor(model: VisionLanguageModel, tokenizer: Any, folder: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    template = exported_template(tokenizer)
    tokenizer.chat_template = template
    tokenizer.padding_side = "left"
    form = model.vision.format
    picture_processor = pad_processor(form) if isinstance(model.layout.tiling, Pad) else form.processor
    LlavaProcessor(
        image_processor=picture_processor,
        tokenizer=tokenizer,
        patch_size=form.patch,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token=IMAGE_TOKEN,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    picture_processor.save_pretrained(folder)


def _check(folder: Path) -> None:
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    info = loaded[1]
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            raise SluiceError(f"transformers does not load the export whole: {kind} {sorted(map(str, info[kind]))[:3]}")
