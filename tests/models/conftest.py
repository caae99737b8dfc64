"""A full model in miniature: a 3-block tower, a 2-layer Llama, and a tokenizer with a chat template like SmolLM2's."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from models.full import ModelSettings, VisionLanguageModel, build_model

SYSTEM = "You are a helpful assistant that answers questions about all things."
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\n" + SYSTEM + "<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOWER = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tower_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("towers") / "sluice-test-32.json"
    path.write_text(json.dumps(TOWER))
    open_clip.add_model_config(path)
    return path.stem


def make_tokenizer(
    folder: Path,
    template: str | None,
    text: str = "system user assistant How many cats are in the picture? There are two.",
) -> Path:
    """A byte-level BPE of 320 tokens, learned from `text`, written to `folder`."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|im_start|>", "<|im_end|>"] if template else ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([text] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=specials[-1])
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), TEMPLATE)


@pytest.fixture(scope="session")
def settings(tower_name: str, tokenizer_folder: Path) -> ModelSettings:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }
    return ModelSettings.model_validate(
        {
            "vision": {"model": tower_name, "pretrained": "none"},
            "language": {"config": config, "tokenizer": str(tokenizer_folder)},
        }
    )


@pytest.fixture(scope="session")
def built(settings: ModelSettings) -> tuple[VisionLanguageModel, Any]:
    """The model and its tokenizer; tests do not change them."""
    model, tokenizer = build_model(settings, seed=3)
    with torch.no_grad():
        model.connector.linear_2.weight.mul_(20)  # so that what a picture shows changes the answers
    return model, tokenizer


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Pictures of different sizes, shapes and modes."""
    random = np.random.default_rng(0)
    made = []
    for number, (width, height) in enumerate([(80, 50), (32, 32), (20, 45), (100, 100)]):
        coarse = random.integers(0, 255, (4, 4, 3), np.uint8)
        made.append(Image.fromarray(coarse).resize((width, height)).convert("L" if number == 2 else "RGB"))
    return made
