"""From captions alone patches learn what they show."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import pytest
import torch

from models.clip import load_clip
from models.words import WordDetector
from schemas.errors import InputError

COLOURS = {"red": (2.0, -1.0, -1.0), "green": (-1.0, 2.0, -1.0), "blue": (-1.0, -1.0, 2.0), "white": (2.0, 2.0, 2.0)}


def test_a_word_is_found_in_the_patch_that_shows_it(tower_name: str) -> None:
    random = torch.Generator().manual_seed(0)
    clip = load_clip(tower_name, "none", torch.device("cpu"), seed=0)
    clip.model.requires_grad_(True)
    detector = WordDetector(clip, seed=0)
    learning = [*clip.model.visual.parameters(), *detector.parameters()]
    optimizer = torch.optim.AdamW(learning, lr=2e-3)
    texts = clip.tokenizer([f"a {name} square" for name in COLOURS])
    colours = torch.tensor(list(COLOURS.values()))

    def drawn(number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Grey pictures with one coloured patch of 16: pixels, which colour, which patch."""
        which, where = (torch.randint(most, (number,), generator=random) for most in (len(COLOURS), 16))
        pixels = torch.zeros(number, 3, 4, 8, 4, 8)
        for row, (colour, place) in enumerate(zip(which.tolist(), where.tolist(), strict=True)):
            pixels[row, :, place // 4, :, place % 4] = colours[colour][:, None, None]
        return pixels.flatten(4).flatten(2, 3), which, where

    def seen(pixels: torch.Tensor) -> torch.Tensor:
        return clip.model.visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")["image_intermediates"][0]

    for _ in range(150):
        pixels, which, _ = drawn(32)
        optimizer.zero_grad()
        detector.loss(seen(pixels), texts[which]).div(32).backward()
        optimizer.step()
    pixels, which, where = drawn(100)
    words = texts[:, 2]  # behind the begin and the article
    with torch.no_grad():
        patches = seen(pixels)
        assert (detector(patches, words).argmax(1) == which).float().mean() > 0.95
        each = torch.stack([detector(patches[:, [place]], words) for place in range(16)], 1)
    said = each[torch.arange(100), :, which]
    assert (said.argmax(1) == where).float().mean() > 0.9


def test_words_of_all_captions_say_nothing(tower_name: str) -> None:
    clip = load_clip(tower_name, "none", torch.device("cpu"), seed=0)
    detector = WordDetector(clip, seed=0)
    assert detector.loss(torch.randn(2, 16, 64), clip.tokenizer(["a cat", "a cat"])) == 0
    assert detector.loss(torch.randn(2, 16, 64), clip.tokenizer(["a cat", "a dog"])) > 0


def test_other_towers_are_refused() -> None:
    clip = load_clip("RN50", "none", torch.device("cpu"), seed=0)
    with pytest.raises(InputError, match="set word_loss to 0"):
        WordDetector(clip)
