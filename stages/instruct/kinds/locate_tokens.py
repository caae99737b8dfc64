"""The boxes of all objects of a label, as tokens `<loc0000>` to `<loc1023>` (PaliGemma, Beyer et al. 2024)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Detect {label} and answer with location tokens.",
    "Give the location tokens of every {label}.",
    "detect {label}",
    "Locate the {label} in location tokens.",
    "With location tokens, where is the {label}?",
    "Which location tokens frame the {label}?",
    "Write the box of each {label} as location tokens.",
    "Location tokens for this, please: {label}.",
    "Find every {label}. Answer in location tokens.",
    "Say in location tokens where each {label} is.",
    "Frame every object of the kind {label} by location tokens.",
    "Put the region of the {label} into location tokens.",
    "Question: where is the {label}? Location tokens:",
)
_BINS = 1024


class LocateTokens(PictureKind):
    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        labels = rng.sample(context.clear_labels, min(2, len(context.clear_labels)))
        turns = []
        for label in labels:
            boxes = sorted((box for box in context.boxes if box.label == label), key=lambda box: (box.x1, box.y1))
            answer = " ; ".join(f"{location_tokens(box)} {label}" for box in boxes)
            turns.append(self.turn(rng, _PHRASINGS, answer, label=label))
        return turns


def location_tokens(box: LabelledBox) -> str:
    """A box as four tokens: upper, left, lower and right edge, each as its bin of 1,024 equal ones."""
    bins = [min(int(edge * _BINS), _BINS - 1) for edge in (box.y1, box.x1, box.y2, box.x2)]
    return "".join(f"<loc{number:04d}>" for number in bins)
