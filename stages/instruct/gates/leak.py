"""Answers that give away what they were written from: captions, boxes and their coordinates."""

from __future__ import annotations

import re

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict

_SOURCE = r"(captions?|descriptions?|context|annotations?|metadata|prompt|text|data|information|input|list|details?)"
_WHICH = (
    r"(provided|given|supplied|above|accompanying|available|original|listed|first|second|third|other|image|picture)"
)
_TELLS = (
    r"(says?|states?|mentions?|describes?|lists?|indicates?|specif(y|ies)|notes?|tells?|reads?|suggests?|names?|"
    r"do(es)?(n't| not)|provided|given|above|refers?|includes?|claims?|implies|imply|calls?|gives?)"
)
_PHRASES = (
    r"captions?|captioned|bounding[- ]box(es)?|bbox(es)?|coordinates?|annotations?|annotated|metadata",
    rf"(the|this|these|its|your|both|all|one|each|every|any) ({_WHICH} )?{_SOURCE} "
    rf"(that )?(is |was |were |are )?{_TELLS}",
    rf"(the|this|these) {_WHICH} (captions?|descriptions?|context|annotations?|text|data|information|boxes|objects?)",
    rf"(according to|based on|from|per|in) (the|this|these|my|your) ({_WHICH} )?"
    r"(captions?|descriptions?|context|annotations?|prompt|text|information|list|data)",
    r"(is|are|was|were|been|not|as) (explicitly |only |also |clearly )?"
    r"(mentioned|specified|described|stated|listed)(?! by)",
    r"(list|lists|set) of (the )?(objects|items|things|facts|labels|boxes)",
    r"(was|were|am|been) (told|given|informed|provided with)",
    r"detected (object|item|box)(es|s)?|detections?|(object|region|box) (labels?|detection)|labell?ed (as|box(es)?)",
    r"normali[sz]ed|pixel (values?|positions?)|[xy][- ](axis|coordinate|value|position)",
)
_WORDS = re.compile(rf"\b({'|'.join(_PHRASES)})\b", re.IGNORECASE)

_NUMBER = r"-?(\d+\.\d+|\.\d+|\d+)\s*%?"
_FORMS = (
    rf"[\[({{<]\s*{_NUMBER}\s*([,;x]\s*{_NUMBER}\s*)+[\])}}>]",  # [0.1, 0.2], (120, 45)
    rf"\b[xy]\d?\s*(=|:|is|of|at)\s*{_NUMBER}",
    r"(?<![$€£\d.])\b0?\.\d{2,}\b",  # a share of a side
    rf"\b(points?|positions?|coords?|location|located at|placed at|cent(er|re)d at|pixels?)\s*:?\s*{_NUMBER}",
    rf"\b{_NUMBER}\s*(pixels?|px)\b",
    rf"\bat {_NUMBER}\s*(,|and|by|x)\s*{_NUMBER}",
    r"\b\d+(\.\d+)?\s*(%|percent|per cent)\s*(of the way )?(from|across|down|up|along|to the|in from)\b",
    r"\b\d+(\.\d+)?\s*(%|percent|per cent) of the (width|height|picture|image|frame|side)\b",
)
_COORDINATES = re.compile("|".join(_FORMS), re.IGNORECASE)


class Leak(Gate):
    """Words that the captions themselves use are no leak; coordinates always are."""

    def verdict(self, said: Said) -> Verdict | None:
        for text in (said.turn.answer, said.turn.question):
            if found := _COORDINATES.search(text):
                return Reason.LEAK, f"coordinates: {found[0].strip()}"
            for found in _WORDS.finditer(text):
                if found[0].lower() not in said.scene.words:
                    return Reason.LEAK, found[0]
        return None
