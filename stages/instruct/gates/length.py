"""Answers that are too short or too long for their kind."""

from __future__ import annotations

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict


class Length(Gate):
    def verdict(self, said: Said) -> Verdict | None:
        least, most = said.kind.answer_words
        words = len(said.turn.answer.split())
        if not least <= words <= most:
            return Reason.ANSWER_LENGTH, f"{words} words, where {least} to {most} are asked for"
        return None
