"""Whether an object is there: one that is and one that is not, so that yes and no are balanced."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import TemplateKind
from stages.words import with_article

_PHRASINGS = (
    "Is there {label} in the picture?",
    "Can you see {label} here?",
    "Does this picture show {label}?",
    "Is {label} among the objects in the picture?",
)


class Presence(TemplateKind):
    exact = True

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        present = sorted(context.counts())
        absent = [label for label in context.vocabulary if label not in present]
        if not present or not absent:
            return []
        turns = [
            self.turn(rng, _PHRASINGS, "yes", label=with_article(rng.choice(present))),
            self.turn(rng, _PHRASINGS, "no", label=with_article(rng.choice(absent))),
        ]
        rng.shuffle(turns)
        return turns
