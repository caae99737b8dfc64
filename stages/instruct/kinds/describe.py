"""All captions of a picture as one long description."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind
from stages.words import words_of

_PHRASINGS = (
    "Describe this picture at length.",
    "Describe the picture as fully as you can.",
    "What does this picture show? Leave nothing out.",
    "Give a long description of the picture.",
    "Say all that you can about this picture.",
    "Tell me everything that you can see here.",
    "Write several sentences about what is in the picture.",
    "A long description of the picture:",
    "Explain thoroughly what can be seen in this picture.",
    "What is in the picture? Take your time and be complete.",
    "Describe what is shown here for somebody who cannot see it.",
    "Give a complete account of this picture.",
    "Look closely and describe all that the picture shows.",
)
#: A caption of so many words is a long description by itself.
_LONG = 25


class Describe(PictureKind):
    joined = False

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        # What another caption says in full, with more words, is not said twice.
        bags = [words_of(caption) for caption in context.captions]
        said = [
            caption
            for place, caption in enumerate(context.captions)
            if not any(bags[place] < bag or (bags[place] == bag and other < place) for other, bag in enumerate(bags))
        ]
        if len(said) < 2 and sum(len(caption.split()) for caption in said) < _LONG:
            return []
        answer = " ".join(caption if caption.endswith((".", "!", "?", "。")) else f"{caption}." for caption in said)
        return [self.turn(rng, _PHRASINGS, answer)]
