"""Caption to "describe this picture" (LLaVA's first training step, Liu et al. 2023, section 4.2)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind

_PHRASINGS = (
    "Describe this picture briefly.",
    "What does this picture show?",
    "Give a short description of the picture.",
    "Say in one sentence what is in the picture.",
    "What can be seen here?",
    "Write a caption for this picture.",
    "A short description of the picture:",
    "Tell me briefly what the picture shows.",
    "Sum up this picture in a sentence.",
    "What would be a fitting caption here?",
    "Put in a few words what you see.",
    "Use a short sentence to say what is shown.",
    "In brief, what is this a picture of?",
)


class Caption(PictureKind):
    joined = False
    most = 1

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        if self.most == 1:
            return [self.turn(rng, _PHRASINGS, rng.choice(context.captions))] if context.captions else []
        said = rng.sample(context.captions, min(self.most, len(context.captions)))
        return [self.turn(rng, _PHRASINGS, caption) for caption in said]
