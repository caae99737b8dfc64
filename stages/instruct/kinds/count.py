"""How many objects there are, in all and of one label, from the boxes."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind

_ALL = (
    "How many objects are in the picture?",
    "How many things can you count in this picture?",
    "What is the total number of objects here?",
    "Count the objects in the picture.",
    "Count all the objects in the picture. How many are there?",
    "How many objects are there in all?",
    "How many objects does the picture show? Answer with a number.",
    "What number of objects can be seen here?",
    "Tell me how many objects this picture shows.",
    "Give the number of all objects in the picture.",
    "Question: how many objects are there? Short answer:",
    "Look at the picture and count the objects in it.",
    "With one number: how many objects are in the picture?",
)
_ONE_LABEL = (
    "How many times does this appear in the picture: {label}?",
    "Count every {label} in the picture. How many are there?",
    "What is the number of objects of the kind {label}?",
    "How many objects of the kind {label} are in the picture?",
    "Of the kind {label}, how many are there?",
    "Count the objects of the kind {label}.",
    "How many times can you see this here: {label}? Answer with a number.",
    "Give the number of times that this is in the picture: {label}.",
    "Tell me how many times this is shown: {label}.",
    "How often does the picture show this: {label}?",
    "Question: how many of the kind {label} are there? Short answer:",
    "Look for every {label} in the picture and count.",
    "With one number: how many objects of the kind {label} can be seen?",
)


class Count(PictureKind):
    exact = True
    most = 2

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        if not context.boxes or context.unnamed:
            return []
        turns = [self.turn(rng, _ALL, str(len(context.boxes)))] if context.complete else []
        counts = context.counts()
        # A label that is there more than once is asked for first, so that the answer is not always 1.
        labels = sorted(context.clear_labels, key=lambda name: (-counts[name], -rng.random()))
        for label in labels[: self.most - 1]:
            turns.append(self.turn(rng, _ONE_LABEL, str(counts[label]), label=label))
        return turns
