"""How many objects there are, in all and of one label, from the boxes."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import TemplateKind

_ALL = (
    "How many objects are in the picture?",
    "How many things can you count in this picture?",
    "What is the total number of objects here?",
    "Count the objects in the picture.",
)
_ONE_LABEL = (
    "How many times does this appear in the picture: {label}?",
    "Count every {label} in the picture. How many are there?",
    "What is the number of objects of the kind {label}?",
)


class Count(TemplateKind):
    exact = True

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        if not context.boxes:
            return []
        counts = context.counts()
        # A label that is there more than once is asked for first, so that the answer is not always 1.
        label = max(counts, key=lambda name: (counts[name], rng.random()))
        return [
            self.turn(rng, _ALL, str(len(context.boxes))),
            self.turn(rng, _ONE_LABEL, str(counts[label]), label=label),
        ]
