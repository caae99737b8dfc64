"""A question that takes thought, with an answer that gives its grounds (LLaVA's `complex_reasoning`)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import EndpointKind, Rejected


class Reasoning(EndpointKind):
    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        turns = self.pairs(text)
        if len(turns[0].answer.split()) < 6:
            raise Rejected("too_short")
        return turns[:1]
