"""A question that takes thought, with an answer that gives its grounds (LLaVA's `complex_reasoning`)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import EndpointKind


class Reasoning(EndpointKind):
    answer_words = (6, 250)
    beyond_sight = True

    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        return self.pairs(text)
