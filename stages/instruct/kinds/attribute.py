"""What the boxes and labels themselves tell of an object: which of two is larger, and a colour that the label names."""

from __future__ import annotations

import random
from itertools import permutations

from schemas.conversation import Turn
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds.base import PictureKind
from stages.words import overlap

_LARGER = (
    "Which is larger in the picture: the {first} or the {second}?",
    "Which takes up more of the picture, the {first} or the {second}?",
    "The {first} or the {second}: which one is shown larger?",
    "Of the {first} and the {second}, which is the larger one here?",
    "Which covers a larger area, the {first} or the {second}?",
    "Compare the {first} with the {second}. Which is larger?",
    "Name the larger of these two as they are shown: the {first}, the {second}.",
    "Which one fills more of the picture: the {first} or the {second}?",
    "Which looks larger here, the {first} or the {second}?",
    "Is the {first} or the {second} the larger one in the picture?",
    "Question: which is shown larger, the {first} or the {second}? Short answer:",
    "Look at the sizes of the {first} and the {second}. Which is larger?",
    "Between the {first} and the {second}, which has the larger size in the picture?",
)
_COLOUR = (
    "What colour is the {label}?",
    "Which colour does the {label} have?",
    "What is the colour of the {label}?",
    "Name the colour of the {label}.",
    "In one word, what colour is the {label}?",
    "Tell me the colour of the {label} in the picture.",
    "Look at the {label}. What colour is it?",
    "Of which colour is the {label} here?",
    "Say which colour the {label} is.",
    "The {label} in the picture: what is its colour?",
    "Question: what colour is the {label}? Short answer:",
    "Can you tell the colour of the {label}?",
    "What colour does the {label} in this picture have?",
)
_COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "grey", "gray", "black", "white"}
#: How many times the other's area a larger object has at least.
_CLEARLY = 2.0


class Attribute(PictureKind):
    exact = True

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        boxes = context.single_boxes()
        turns = []
        pairs = [(one, other) for one, other in permutations(boxes, 2) if one.area >= _CLEARLY * other.area]
        if pairs:
            larger, smaller = rng.choice(pairs)
            first, second = rng.sample([larger.label, smaller.label], 2)
            turns.append(self.turn(rng, _LARGER, larger.label, first=first, second=second))
        coloured = [box for box in boxes if _is_coloured(box, context)]
        if coloured:
            colour, label = rng.choice(coloured).label.split(maxsplit=1)
            turns.append(self.turn(rng, _COLOUR, colour.lower(), label=label))
        return turns


def _is_coloured(box: LabelledBox, context: Context) -> bool:
    """Whether a label is a colour and a name that no other box in the picture may bear."""
    colour, _, name = box.label.partition(" ")
    others = [*context.counts(), *context.hidden]
    return (
        colour.lower() in _COLOURS
        and bool(name)
        and not context.unnamed
        and not any(overlap(name, other) for other in others if other != box.label)
    )
