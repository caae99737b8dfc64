"""The boxes of all objects of a label, as normalized corners (LLaVA-1.5, Liu et al. 2024; MM1.5, Zhang et al. 2024)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Give the box of every {label} as [x1, y1, x2, y2].",
    "Where is the {label}? Answer with boxes, as shares of the picture's sides.",
    "Locate the {label} with a box.",
    "Give the corners of each {label} in the picture.",
    "What are the coordinates of the {label}?",
    "Draw a box around each {label} and tell me its corners.",
    "Detect every {label} in the picture.",
    "Which region does the {label} take up? Answer as [x1, y1, x2, y2].",
    "Find every object of the kind {label} and give its box.",
    "Report where this lies in the picture, as boxes: {label}.",
    "Boxes, please, for this: {label}.",
    "For each {label} give the left, upper, right and lower edge as shares of the picture.",
    "Question: what is the box of the {label}? Answer:",
)


class Locate(PictureKind):
    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        labels = rng.sample(context.clear_labels, min(2, len(context.clear_labels)))
        turns = []
        for label in labels:
            boxes = sorted((box for box in context.boxes if box.label == label), key=lambda box: (box.x1, box.y1))
            turns.append(self.turn(rng, _PHRASINGS, "; ".join(box.corners for box in boxes), label=label))
        return turns
