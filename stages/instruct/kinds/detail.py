"""A long description from captions and boxes (LLaVA's `detail_description`)."""

from __future__ import annotations

import random
import re

from schemas.conversation import Turn
from schemas.vocabulary import Reason
from stages.instruct.context import Context
from stages.instruct.kinds.base import EndpointKind, Rejected

_PHRASINGS = (
    "Describe this picture in detail.",
    "What do you see in this picture? Tell me everything.",
    "Give a full description of the picture.",
    "Walk me through what this picture shows.",
    "Describe the scene as closely as you can.",
    "What is in the picture, and where? Leave nothing out.",
    "Tell somebody who cannot see this picture all about it.",
    "Write a thorough description of what is shown here.",
)


class Detail(EndpointKind):
    answer_words = (8, 400)

    def read(self, text: str, context: Context, rng: random.Random) -> list[Turn]:
        """One turn; a last sentence that was cut off is left out."""
        answer = text.strip()
        if not answer.endswith((".", "!", "?", "。", "！", "？")):
            whole = re.match(r".*[.!?。！？](?=\s|$)", answer, re.DOTALL)
            if whole is None:
                raise Rejected(Reason.BROKEN_TURNS, "no whole sentence" if answer else "empty")
            answer = whole[0]
        return [Turn(rng.choice(_PHRASINGS), answer, self.name)]
