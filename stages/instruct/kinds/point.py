"""Where all objects of a label are, as points in PixMo's form (Deitke et al. 2024, Molmo and PixMo)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from xml.sax.saxutils import escape

from schemas.conversation import Turn
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Point to the {label} in the picture.",
    "Point at every {label}.",
    "Show me with points where this is: {label}.",
    "Where is the {label}? Point to it.",
    "Mark each {label} with a point.",
    "Find every {label} and point to it.",
    "Give the points at which this can be seen: {label}.",
    "Put a point on each object of the kind {label}.",
    "Can you point out every {label}?",
    "Pointing: {label}",
    "I am looking for this: {label}. Point to where it is.",
    "Indicate with points every object of the kind {label}.",
    "Locate with points: {label}.",
)


class Point(PictureKind):
    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        labels = rng.sample(context.clear_labels, min(2, len(context.clear_labels)))
        turns = []
        for label in labels:
            answer = points([box for box in context.boxes if box.label == label], label)
            turns.append(self.turn(rng, _PHRASINGS, answer, label=label))
        return turns


def points(boxes: Sequence[LabelledBox], label: str) -> str:
    """The centres of `boxes`, 0 to 100 with one decimal, by x and then y: `<point x="" y="" alt="">label</point>`.

    Several are numbered: `<points x1="" y1="" x2="" y2="" alt="">label</points>`.
    """
    centres = sorted((round(100 * box.centre[0], 1), round(100 * box.centre[1], 1)) for box in boxes)
    numbers = [str(number) for number in range(1, len(centres) + 1)] if len(centres) > 1 else [""]
    places = " ".join(
        f'x{number}="{x:.1f}" y{number}="{y:.1f}"' for number, (x, y) in zip(numbers, centres, strict=True)
    )
    tag = "points" if len(centres) > 1 else "point"
    return f'<{tag} {places} alt="{escape(label, {chr(34): "&quot;"})}">{escape(label)}</{tag}>'
