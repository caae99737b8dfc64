"""In which quarter of the picture an object stands, for objects that are there once and clearly in one quarter."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Where in the picture is the {label}?",
    "In which part of the picture is the {label}?",
    "Which corner is the {label} nearest to?",
    "Where is the {label}: top left, top right, bottom left or bottom right?",
    "In which quarter of the picture is the {label}?",
    "Which quarter of the picture holds the {label}?",
    "Whereabouts in the picture can the {label} be seen?",
    "Say where the {label} is: at the top or the bottom, on the left or the right?",
    "Towards which corner of the picture is the {label}?",
    "Find the {label}. In which part of the picture is it?",
    "Question: where is the {label}? Short answer:",
    "Name the corner that the {label} is nearest to.",
    "In two words, where in the picture is the {label}?",
)
#: A centre nearer than this to the middle (share of the side) belongs to no quarter.
_UNCLEAR = 0.06


class Position(PictureKind):
    exact = True
    most = 2

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        turns = []
        for box in context.single_boxes():
            x, y = box.centre
            if min(abs(x - 0.5), abs(y - 0.5)) >= _UNCLEAR:
                place = f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"
                turns.append(self.turn(rng, _PHRASINGS, place, label=box.label))
        return rng.sample(turns, min(self.most, len(turns)))
