"""How two objects stand to each other, where their boxes leave no doubt: left, right, above, below or inside."""

from __future__ import annotations

import random
from itertools import combinations

from schemas.conversation import Turn
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Where is the {first}, seen from the {second}: left, right, above, below or inside?",
    "Is the {first} left, right, above, below or inside of the {second}?",
    "How does the {first} stand to the {second}: left, right, above, below or inside?",
    "Compared with the {second}, where is the {first}? Answer left, right, above, below or inside.",
    "On which side of the {second} is the {first}?",
    "In which direction from the {second} is the {first}?",
    "Starting from the {second}, where do you find the {first}?",
    "In one word, where is the {first} relative to the {second}?",
    "What is the place of the {first} in relation to the {second}?",
    "Relative to the {second}, where is the {first}?",
    "Question: where is the {first} with respect to the {second}? Short answer:",
    "Look at the {first} and the {second}. Where is the first of them, seen from the other?",
    "Say where the {first} is with the {second} as the starting point.",
)
#: How much of an inner box must lie in the outer one, and how much larger that must be.
_WITHIN, _LARGER = 0.99, 2.0
#: How much of the shorter side two boxes must share across their direction.
_ALONGSIDE = 0.25


class Relation(PictureKind):
    exact = True
    most = 2

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        boxes = context.single_boxes()
        pairs = [
            (first, second, place)
            for first, second in combinations(rng.sample(boxes, len(boxes)), 2)
            if (place := relation(first, second)) is not None
        ]
        return [
            self.turn(rng, _PHRASINGS, place, first=first.label, second=second.label)
            for first, second, place in rng.sample(pairs, min(self.most, len(pairs)))
        ]


def relation(first: LabelledBox, second: LabelledBox) -> str | None:
    """Where `first` is as seen from `second`; None where that is not clear.

    Inside: wholly within a box of at least twice its area. Otherwise the boxes are apart in one direction, and share a
    quarter of the shorter side in the other.
    """
    if first.common_area(second) >= _WITHIN * first.area and second.area >= _LARGER * first.area:
        return "inside"
    across = min(first.x2, second.x2) - max(first.x1, second.x1)
    along = min(first.y2, second.y2) - max(first.y1, second.y1)
    if across <= 0 and along >= _ALONGSIDE * min(first.y2 - first.y1, second.y2 - second.y1):
        return "left" if first.x2 <= second.x1 else "right"
    if along <= 0 and across >= _ALONGSIDE * min(first.x2 - first.x1, second.x2 - second.x1):
        return "above" if first.y2 <= second.y1 else "below"
    return None
