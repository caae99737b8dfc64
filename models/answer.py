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

Picture = Image.Image | torch.Tensor | None


def answer(
    model: VisionLanguageModel,
    tokenizer: Any,
    questions: Sequence[str],
    pictures: Sequence[Picture],
    max_new_tokens: int = 32,
    batch_size: int = 32,
) -> list[str]:
    """Greedy answers, the same for every `batch_size`.

    Args:
        pictures: one for each question: a PIL picture; pixels [3, H, W], as `model.vision.picture_tensor` makes them;
            features [N, C], as `model.vision` makes them; or None to ask without a picture.
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
    pictures: Sequence[Picture],
    max_new_tokens: int,
) -> list[str]:
    device = next(model.language.parameters()).device
    prompts = [
        prompt_ids(question, tokenizer, model.picture_tokens, with_picture=picture is not None)
        for question, picture in zip(questions, pictures, strict=True)
    ]
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    shown = [picture for picture in pictures if picture is not None]
    features = _features(model, shown, device) if shown else None
    new = model.generate(ids.to(device), mask.to(device), max_new_tokens, picture_features=features)
    return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _features(
    model: VisionLanguageModel, pictures: Sequence[Image.Image | torch.Tensor], device: torch.device
) -> torch.Tensor:
    """Features [len(pictures), N, C]; pixels go through the tower, each different picture once."""
    rows: list[torch.Tensor | None] = []
    pixels: dict[int, torch.Tensor] = {}
    for picture in pictures:
        if isinstance(picture, Image.Image):
            pixels.setdefault(id(picture), model.vision.picture_tensor(picture))
            rows.append(None)
        elif picture.dim() == 3:
            pixels.setdefault(id(picture), picture)
            rows.append(None)
        else:
            rows.append(picture.to(device))
    if pixels:
        seen = dict(zip(pixels, model.vision(torch.stack(list(pixels.values())).to(device)), strict=True))
        rows = [seen[id(picture)] if row is None else row for picture, row in zip(pictures, rows, strict=True)]
    return torch.stack([row.float() for row in rows if row is not None])
