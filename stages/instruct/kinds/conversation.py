"""Several turns of question and answer about what is seen, from captions alone (LLaVA's `conversation`)."""

from __future__ import annotations

import random

from schemas.conversation import Turn
from stages.instruct.context import Context
from stages.instruct.kinds.base import EndpointKind


class MultiTurn(EndpointKind):
    sees_boxes = False

    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        return self.pairs(text)
