"""A question that was asked before in the same conversation."""

from __future__ import annotations

import re

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict
from stages.instruct.objects import name_of

#: Words that tell no question from another.
_EMPTY = re.compile(
    r"an?|the|of|in|on|this|that|there|here|it|its|be|is|are|was|were|do|does|did|can|could|you|tell|me|say|please|"
    r"picture|image|photo|scene|shown?|see|visible|present|and|so"
)


class AskedTwice(Gate):
    """Compares the words that carry the question, in their dictionary forms."""

    def verdict(self, said: Said) -> Verdict | None:
        asked = _core(said.turn.question)
        for turn in said.earlier:
            if _core(turn.question) == asked:
                return Reason.ASKED_TWICE, turn.question
        return None


def _core(question: str) -> tuple[str, ...] | str:
    """The question's words without those that every question has; the question itself where it has no others."""
    words = tuple(word for word in name_of(question) if not _EMPTY.fullmatch(word))
    return words or re.sub(r"\W+", " ", question).strip().casefold()
