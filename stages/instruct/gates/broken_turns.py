"""Turns that are not one question and its answer."""

from __future__ import annotations

import re

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict

_MARKS = (
    r"<\|?/?(im_start|im_end|system|user|assistant|image|s|picture|endoftext|start_header_id|eot_id)\b[^>]*\|?>",
    r"\[/?INST\]|<</?SYS>>|[\"{,]\s*\"?(question|answer|turns)\"\s*:",
    r"^\s*(#+\s|```|\*\*(question|answer))",
    r"^\s*(question|answer|q|a|user|human|assistant|system|gpt|turn)\s*\d*\s*:",
)
_MARK = re.compile("|".join(_MARKS), re.IGNORECASE | re.MULTILINE)
_SPEAKER = re.compile(r"\b(Question|Answer|User|Human|Assistant)\s*\d*\s*:")
_ORDERS = (
    r"describe|tell|name|list|count|give|explain|say|identify|point|compare|guess|find|imagine|look|write|show|walk|state",
    r"summari[sz]e|read|suggest|choose|locate|mention|provide",
)
_ORDER = re.compile(rf"^\W*((please|can you|could you) )?({'|'.join(_ORDERS)})\b", re.IGNORECASE)
_END = re.compile(r"[.!?。！？।…:)\]\"'”’\w]\s*$")
_LAST_WORDS = r"a|an|the|and|or|but|with|of|to|in|on|at|is|are|by|from|for|its|their|which|that"
_HANGING = re.compile(rf"\b({_LAST_WORDS})[\s,;-]*$", re.IGNORECASE)


class BrokenTurns(Gate):
    """A turn that is empty, cut short, marked up, without a question, or that answers with the question."""

    scope = "conversation"
    place = 0

    def verdict(self, said: Said) -> Verdict | None:
        fault = _fault(said.turn.question.strip(), said.turn.answer.strip())
        return (Reason.BROKEN_TURNS, fault) if fault else None


def _fault(question: str, answer: str) -> str | None:
    if not question or not answer:
        return "an empty question or answer"
    for text in (question, answer):
        if found := _MARK.search(text) or _SPEAKER.search(text):
            return f"marks of another turn: {found[0].strip()}"
    if not any(character.isalnum() for character in answer):
        return "the answer has no words"
    if not (set(question) & set("?？؟") or _ORDER.search(question)):
        return "the question asks nothing"
    if question.strip("?!. ").casefold() == answer.strip("?!. ").casefold():
        return "the answer is the question"
    if answer.endswith("?"):
        return "the answer is a question"
    if _HANGING.search(answer) or not _END.search(answer):
        return f"the answer breaks off: {answer[-20:]}"
    return None
