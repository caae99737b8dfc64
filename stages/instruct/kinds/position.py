"""In which quarter of the picture an object stands, for objects that are there once and clearly in one quarter."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import TemplateKind

_PHRASINGS = (
    "Where in the picture is the {label}?",
    "In which part of the picture is the {label}?",
    "Which corner is the {label} nearest to?",
)
#: A centre nearer than this to the middle (share of the side) belongs to no quarter.
_UNCLEAR = 0.06


class Position(TemplateKind):
    exact = True

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        counts = context.counts()
        turns = []
        for box in context.boxes:
            x, y = box.centre
            if counts[box.label] == 1 and min(abs(x - 0.5), abs(y - 0.5)) >= _UNCLEAR:
                place = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
                turns.append(self.turn(rng, _PHRASINGS, place, label=box.label))
        return rng.sample(turns, min(2, len(turns)))
