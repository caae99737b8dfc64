"""Language models: any causal LM that transformers loads from a hub name, a folder, a package, a GGUF or a config."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import difflib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, model_validator
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

from models.chat import TEMPLATES, end_ids, prepare_tokenizer
from schemas.errors import InputError
from schemas.settings import Settings

_PACKAGE = "package:"
#: Keys that transformers takes in a config although its configs do not list them.
_ALIASES = {"rope_theta", "rope_scaling"}


class LanguageSettings(Settings):
    """Which language model answers. Either `name`, or `config` with `tokenizer`."""

    name: str | None = Field(
        None, description="a hub name, a folder, or package:IMPORT_NAME for the folder of an installed package"
    )
    gguf_file: str | None = Field(None, description="a GGUF file in `name`, whose weights are unpacked")
    config: dict[str, Any] | None = Field(
        None, description="a transformers config with its model_type, for a model with fresh weights"
    )
    tokenizer: str | None = Field(None, description="where the tokenizer is, if not in `name`; same forms")
    tokenizer_gguf_file: str | None = Field(None, description="a GGUF file in `tokenizer`, to read the tokenizer from")
    chat_template: str | None = Field(
        None, description=f"{', '.join(TEMPLATES)}, or a Jinja template; the tokenizer's own, or chatml, where null"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="the type that weights are held in")

    @model_validator(mode="after")
    def _one_source(self) -> LanguageSettings:
        if (self.name is None) == (self.config is None):
            raise ValueError("give either name (a model with weights) or config (a model from scratch)")
        if self.config is not None and self.tokenizer is None:
            raise ValueError("a config needs a tokenizer: a hub name, a folder or package:IMPORT_NAME")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example llama")
        return self

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def load_tokenizer(settings: LanguageSettings) -> Any:
    """The tokenizer, with the picture token and a chat template added where it lacks them.

    Raises:
        InputError: it is not there, or its chat template does not allow an exact loss mask.
    """
    if settings.tokenizer is not None:
        name, gguf_file = settings.tokenizer, settings.tokenizer_gguf_file
    else:
        name, gguf_file = settings.name or "", settings.tokenizer_gguf_file or settings.gguf_file
    try:
        tokenizer = AutoTokenizer.from_pretrained(_place(name), **_gguf(gguf_file))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"model.language: cannot load the tokenizer of '{name}': {_reason(error)}") from error
    return prepare_tokenizer(tokenizer, settings.chat_template)


def load_language(settings: LanguageSettings, seed: int = 0) -> tuple[Any, Any]:
    """The model, in eval mode, with embeddings for all tokens of its tokenizer, and the tokenizer.

    Weights are plain trainable tensors. New tokens begin as the mean of the old.

    Args:
        seed: for the weights of a model from scratch.

    Raises:
        InputError: model or tokenizer cannot be loaded, the config is wrong, or the tokenizer is another model's.
    """
    tokenizer = load_tokenizer(settings)
    model = _from_config(settings, tokenizer, seed) if settings.config is not None else _from_weights(settings)
    _fit_vocabulary(model, tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=end_ids(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    return model.eval(), tokenizer


def _from_config(settings: LanguageSettings, tokenizer: Any, seed: int) -> Any:
    given = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **(settings.config or {}),
    }
    model_type = given.pop("model_type")
    try:
        known = {*AutoConfig.for_model(model_type).to_dict(), *_ALIASES}
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise InputError(f"model.language.config: a {model_type} config has no key '{key}'{hint}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **given), dtype=settings.dtype)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise InputError(f"model.language.config: {_reason(error)}") from error


def _from_weights(settings: LanguageSettings) -> Any:
    options = _gguf(settings.gguf_file)
    if options:
        options["quantization_config"] = GgufConfig(dequantize=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(_place(settings.name or ""), dtype=settings.dtype, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"model.language: cannot load '{settings.name}': {_reason(error)}") from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise InputError(
            f"model.language: the weights of '{settings.name}' do not have the shapes that its config.json says, "
            "vocab_size among them; take the config that they were saved with"
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _fit_vocabulary(model: Any, tokenizer: Any) -> None:
    """Makes room for tokens that were added to the tokenizer.

    Raises:
        InputError: the tokenizer's own tokens, without those that were added, are more than the model knows.
    """
    room = model.get_input_embeddings().num_embeddings
    if tokenizer.vocab_size > room:
        raise InputError(
            f"model.language: the tokenizer {tokenizer.name_or_path} has {tokenizer.vocab_size} tokens, but the model "
            f"embeds {room}: it is another model's; set model.language.tokenizer to the one that the model was trained "
            "with, or leave config.vocab_size out for a model from scratch"
        )
    needed = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
    if needed > room:
        _grow(model, needed)


@torch.no_grad()
def _grow(model: Any, size: int) -> None:
    """Grows the vocabulary to `size`; the new rows are the mean of the old, so that no seed is needed."""
    old = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        layer.weight[old:] = layer.weight[:old].float().mean(0).to(layer.weight.dtype)


def _gguf(file: str | None) -> dict[str, Any]:
    return {"gguf_file": file} if file else {}


def _place(name: str) -> str:
    """The folder of a package, found without importing it; other names as they are.

    Raises:
        InputError: the package is not installed.
    """
    if not name.startswith(_PACKAGE):
        return name
    package = name.removeprefix(_PACKAGE)
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"model.language: there is no installed package '{package}': install it with pip first")
    return str(Path(spec.submodule_search_locations[0]))


def _reason(error: BaseException) -> str:
    """The last line of an error: what transformers says after the class and the key it says it about."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
