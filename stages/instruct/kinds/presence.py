"""Whether an object is there; every object is asked for as often where it is not as where it is."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.balance import balance_presence
from stages.instruct.context import Context
from stages.instruct.kinds.base import TemplateKind
from stages.words import with_article

_PHRASINGS = (
    "Is there {label} in the picture?",
    "Can you see {label} here?",
    "Does this picture show {label}?",
    "Is {label} among the objects in the picture?",
    "Is there {label} in the picture? Answer yes or no.",
    "Yes or no: does {label} appear in the picture?",
    "Say yes or no. Is {label} to be seen here?",
    "Do you find {label} anywhere in the picture?",
    "Does the picture contain {label}?",
    "Is {label} present in this picture?",
    "Look at the picture. Is there {label} in it?",
    "Question: is {label} shown here? Short answer:",
    "Given the picture, say whether there is {label} in it, with yes or no.",
)


class Presence(TemplateKind):
    exact = True
    most = 2

    def turns_of(self, contexts: list[Context], chances: list[random.Random]) -> list[list[Turn]]:
        return [
            [
                self.turn(rng, _PHRASINGS, "yes" if each.present else "no", label=with_article(each.label))
                for each in asked
            ]
            for asked, rng in zip(balance_presence(contexts, chances, self.most), chances, strict=True)
        ]
