"""What is in a given box (Ferret's referring questions, You et al. 2023)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "What is at {box}?",
    "What is in the region {box}?",
    "Which object is inside {box}?",
    "Name the object in the box {box}.",
    "What does the box {box} hold?",
    "Look at {box}. What object is it?",
    "Say what is shown at {box}.",
    "What kind of object is in the region {box} of the picture?",
    "The box {box} frames an object. Which one?",
    "What can be seen within {box}?",
    "Tell me the name of the object at {box}.",
    "Question: what is in the region {box}? Short answer:",
    "Which object lies between the corners {box}?",
)
#: Boxes that share more than this of their united area are one region.
_SAME = 0.5


class Region(PictureKind):
    exact = True
    most = 2

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        boxes = [box for box in context.boxes if not any(_same(box, other) for other in context.boxes)]
        chosen = rng.sample(boxes, min(self.most, len(boxes)))
        return [self.turn(rng, _PHRASINGS, box.label, box=box.corners) for box in chosen]


def _same(box: LabelledBox, other: LabelledBox) -> bool:
    """Whether both are about the same region and named differently."""
    common = box.common_area(other)
    return box.label != other.label and common > _SAME * (box.area + other.area - common)
