"""Text in the picture, from boxes whose label says what is written in them (`text: EXIT`)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import PictureKind

_WHOLE = (
    "What does the text in the picture say?",
    "Read the text in the picture.",
    "What is written in the picture?",
    "Which words can be read here?",
    "Read out what is written.",
    "What text does this picture show?",
    "Transcribe the text in the picture.",
    "Tell me what is written here.",
    "Give the text in the picture word for word.",
    "There is text in the picture. What does it say?",
    "Question: what does the text say? Short answer:",
    "Look at the writing in the picture and read it.",
    "Write down the text that you can see.",
)
_AT = (
    "What is written at {box}?",
    "Read the text at {box}.",
    "What does the text in the region {box} say?",
    "Which words stand in the box {box}?",
    "Transcribe the text in {box}.",
    "What text does the box {box} hold?",
    "Read out what is written within {box}.",
    "Tell me what the writing at {box} says.",
    "There is text at {box}. What does it say?",
    "Give the text in the region {box} word for word.",
    "Question: what is written at {box}? Short answer:",
    "Look at {box} and read the writing there.",
    "Write down the text that stands at {box}.",
)


class Read(PictureKind):
    exact = True

    def turns(self, context: Context, rng: random.Random) -> list[Turn]:
        texts = context.texts
        turns = [self.turn(rng, _AT, text.label, box=text.corners) for text in rng.sample(texts, min(2, len(texts)))]
        if len(texts) == 1:
            turns[0] = rng.choice([turns[0], self.turn(rng, _WHOLE, texts[0].label)])
        return turns
