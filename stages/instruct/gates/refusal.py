"""Refusals, and the boilerplate with which language models speak of themselves or of their task."""

from __future__ import annotations

import re

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict

_DO = (
    r"(see|view|tell|say|know|help|assist|answer|provide|access|have|determine|fulfil|comply|look|identify|create|"
    r"generate|write|describe|observe|make|be)"
)
_PHRASES = (
    r"as an? (ai|artificial|language|virtual|text)|(large )?language model|ai (assistant|model|language)|chatbot",
    r"i('m| am) (just |only |merely )?an? (ai|assistant|language|machine|text)",
    r"(i'm|i am|we are) (not able|unable|sorry|afraid|not sure|unsure|not certain)|i apologi[sz]e|my apologies",
    r"i (really |simply |just )?(can ?not|can't|could ?n[o']t|won't|will not|do not|don't|am not allowed to) "
    rf"(\w+ )?{_DO}",
    r"(can ?not|can't|could not|impossible to|not possible to|unable to|hard to|difficult to) (be )?"
    r"(determined?|say for sure|tell|know|answer(ed)?|assessed|verify|verified)",
    r"(not enough|insufficient) (information|detail|context)|no (further |more )?information",
    r"without seeing|need more (information|context|details)|no image (was|has been|is) (provided|attached|given)",
    r"(please|kindly) (provide|upload|share|note|let me)|let me know if|feel free to|hope (this|that) helps",
    r"(here|below|these|the following) (is|are) (the|some|a|an|two|three|four|my|your)\b[^.]*?\b"
    r"(questions?|answers?|pairs?|conversation|dialogue|description|response)",
    r"(ask|answer) (me )?(another|the next|more) questions?|my (training|knowledge|instructions|guidelines)",
    r"openai|chatgpt|happy to help",
)
_OPENING = (
    r"^\W*(sure|certainly|of course|absolutely|okay|(great|good) question|sorry|unfortunately|n/a|none|null)\b\W*"
    r"(?=[!,.:]|$|here|i\b)"
)
_REFUSAL = re.compile(rf"\b({'|'.join(_PHRASES)})\b|{_OPENING}", re.IGNORECASE)


class Refusal(Gate):
    def verdict(self, said: Said) -> Verdict | None:
        for text in (said.turn.answer, said.turn.question):
            if found := _REFUSAL.search(text):
                return Reason.REFUSAL, found[0].strip()
        return None
