"""The full model: vision tower, connector, fusion and language model in one module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from models.connectors import CONNECTORS, build_connector
from models.language import LanguageSettings, load_language
from models.towers import VisionSettings, VisionTower
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError, SluiceError
from schemas.settings import Settings


class ModelSettings(Settings):
    """The recipe's section `model`."""

    vision: VisionSettings = VisionSettings()
    connector: str = Field("mlp2x_gelu", description=f"one of {', '.join(CONNECTORS)}")
    fusion: Literal["tokens"] = Field("tokens", description="tokens: features stand among the words as embeddings (LLaVA)")
    language: LanguageSettings


class VisionLanguageModel(nn.Module):
    """Picture features pass the connector and take the places of the picture's tokens in the language model's input."""

    def __init__(self, vision: VisionTower, connector: nn.Module, language: nn.Module, image_token_id: int) -> None:
        super().__init__()
        self.vision, self.connector, self.language = vision, connector, language
        self.image_token_id = image_token_id

    @property
    def picture_tokens(self) -> int:
        """Places that one picture takes in the language model's sequence."""
        return self.vision.num_patches

    def parts(self) -> dict[str, nn.Module]:
        """The parts that a training step can name."""
        return {"vision": self.vision, "connector": self.connector, "language": self.language}

    def embed(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        picture_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings [B, T, D] with the pictures in place.

        Args:
            input_ids: int64 [B, T]; each picture has `vision.num_patches` places of `image_token_id`, in order.
            pixel_values: float [P, 3, H, W].
            picture_features: float [P, N, C], what the tower would give for them; saves computing it.

        Raises:
            SluiceError: the places and the pictures do not match.
        """
        embeddings = self.language.get_input_embeddings()(input_ids)
        if picture_features is None and pixel_values is not None:
            picture_features = self.vision(pixel_values)
        places = input_ids == self.image_token_id
        wanted = int(places.sum())
        given = 0 if picture_features is None else picture_features.shape[0] * picture_features.shape[1]
        if wanted != given:
            raise SluiceError(
                f"{wanted} places for picture tokens, but {given} features: a conversation lacks its picture, or its "
                "tokens were cut; run the feed stage again with this model"
            )
        if picture_features is None:
            return embeddings
        pictures = self.connector(picture_features).to(embeddings.dtype)
        return embeddings.masked_scatter(places.unsqueeze(-1), pictures)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        picture_features: torch.Tensor | None = None,
        logits_at: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits of packed sequences; conversations in one pack do not see each other.

        Without an attention mask transformers takes restarting position ids for the borders of packed sequences.

        Args:
            position_ids: int64 [B, T], from 0 in every conversation.
            logits_at: int64 [K], places in the flattened [B * T] sequence; all of them where None.

        Returns:
            [K, V], or [B * T, V].
        """
        embeddings = self.embed(input_ids, pixel_values, picture_features)
        hidden = self.language.base_model(
            inputs_embeds=embeddings, position_ids=position_ids, attention_mask=None, use_cache=False
        ).last_hidden_state.flatten(0, 1)
        if logits_at is not None:
            hidden = hidden[logits_at]
        return self.language.get_output_embeddings()(hidden)


def build_model(settings: ModelSettings, seed: int = 0) -> tuple[VisionLanguageModel, PreTrainedTokenizerBase]:
    """Builds the model that a recipe describes; what has no weights of its own starts from `seed`.

    Raises:
        InputError: a part is not known or does not fit.
    """
    language, tokenizer = load_language(settings.language, seed)
    vision = VisionTower(settings.vision, seed)
    width = language.get_input_embeddings().embedding_dim
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        connector = build_connector(settings.connector, vision.width, width)
    image_token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return VisionLanguageModel(vision, connector, language, image_token), tokenizer


def save_weights(model: VisionLanguageModel, path: Path, parts: Sequence[str] | None = None) -> None:
    """Writes the weights of the named parts (all, where None), each tensor once (tied ones under their first name)."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for part, module in sorted(model.parts().items()):
        if parts is not None and part not in parts:
            continue
        for name, tensor in module.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                tensors[f"{part}.{name}"] = tensor.detach().cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def load_weights(model: VisionLanguageModel, path: Path) -> None:
    """Reads what `save_weights` wrote; parts that the file does not hold stay as they are.

    Raises:
        InputError: the file does not fit the model.
    """
    tensors = load_file(path)
    for part, module in model.parts().items():
        mine = {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
        if not mine:
            continue
        try:
            result = module.load_state_dict(mine, strict=False)
        except RuntimeError as error:
            raise InputError(f"{path} does not fit the recipe's model: {str(error).splitlines()[-1].strip()}") from error
        tied = _tied(module)
        lacking = [name for name in result.missing_keys if not tied[name] & mine.keys()]
        if lacking or result.unexpected_keys:
            raise InputError(f"{path} does not fit the recipe's model: {(lacking or result.unexpected_keys)[0]}")


def _tied(module: nn.Module) -> dict[str, set[str]]:
    """Name -> all names of the same tensor."""
    by_tensor: dict[int, set[str]] = {}
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        by_tensor.setdefault(id(tensor), set()).add(name)
    return {name: by_tensor[id(tensor)] for name, tensor in state.items()}
