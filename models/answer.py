"""Asking a model: questions about pictures in, greedy answers out."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from models.chat import prompt_ids
from models.full import VisionLanguageModel


def answer(
    model: VisionLanguageModel,
    tokenizer: Any,
    questions: Sequence[str],
    pictures: Sequence[Image.Image | None],
    max_new_tokens: int = 32,
    batch_size: int = 32,
) -> list[str]:
    """Greedy answers, the same for every `batch_size`.

    Args:
        pictures: one for each question, or None to ask without a picture.
        max_new_tokens: the longest answer, tokens.
        batch_size: questions that are answered at once.
    """
    training = {name: part.training for name, part in model.parts().items()}
    model.eval()
    try:
        answers: list[str] = []
        for start in range(0, len(questions), batch_size):
            stop = start + batch_size
            answers += _answer(model, tokenizer, questions[start:stop], pictures[start:stop], max_new_tokens)
        return answers
    finally:
        for name, part in model.parts().items():
            part.train(training[name])


@torch.no_grad()
def _answer(
    model: VisionLanguageModel,
    tokenizer: Any,
    questions: Sequence[str],
    pictures: Sequence[Image.Image | None],
    max_new_tokens: int,
) -> list[str]:
    device = next(model.language.parameters()).device
    sizes = [None if picture is None else picture.size for picture in pictures]
    prompts = [
        prompt_ids(question, tokenizer, model.layout.tokens(*size) if size else 0, with_picture=size is not None)
        for question, size in zip(questions, sizes, strict=True)
    ]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    shown = [picture for picture in pictures if picture is not None]
    features = _features(model, shown, device) if shown else None
    order = model.layout.orders([picture.size for picture in shown])
    new = model.generate(ids.to(device), mask.to(device), max_new_tokens, None, features, order)
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _features(model: VisionLanguageModel, pictures: Sequence[Image.Image], device: torch.device) -> torch.Tensor:
    """Features [tiles of all pictures, N, C]; each different picture goes through the towers once."""
    different = {id(picture): picture for picture in pictures}
    tiles = [model.layout.tensor(picture) for picture in different.values()]
    found = model.vision(torch.cat(tiles).to(device)).split([len(one) for one in tiles])
    seen = dict(zip(different, found, strict=True))
    return torch.cat([seen[id(picture)] for picture in pictures]).float()
