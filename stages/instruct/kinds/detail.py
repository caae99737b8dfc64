"""A long description from captions and boxes (LLaVA's `detail_description`)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import EndpointKind, Rejected, check_answer

_PHRASINGS = (
    "Describe this picture in detail.",
    "What do you see in this picture? Tell me everything.",
    "Give a full description of the picture.",
    "Walk me through what this picture shows.",
)


class Detail(EndpointKind):
    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        answer = text.strip()
        if len(answer.split()) < 8:
            raise Rejected("too_short")
        check_answer(answer)
        return [Turn(rng.choice(_PHRASINGS), answer, self.name)]
