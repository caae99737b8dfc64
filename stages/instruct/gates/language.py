"""Turns in a language that was not asked for."""

from __future__ import annotations

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict
from stages.instruct.language import other_language


class Language(Gate):
    """Judges the answer, and question and answer together, for a few words alone tell little."""

    def verdict(self, said: Said) -> Verdict | None:
        for text in (said.turn.answer, f"{said.turn.question} {said.turn.answer}"):
            if language := other_language(text, self.settings.languages):
                return Reason.ANSWER_LANGUAGE, language
        return None
