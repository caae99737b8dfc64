"""Captions that try to give the language model orders, or look like marks of a prompt (prompt injection)."""

from __future__ import annotations

import re

from stages.instruct.context import Context

_BEFORE = r"(above|previous|prior|preceding|earlier|foregoing|former|following|system|initial|original|given|other)"
_TOLD = (
    r"(instructions?|orders?|prompts?|commands?|directions?|rules|guidelines|text|messages?|context|everything|facts)"
)
_PHRASES = (
    rf"(ignore|disregard|forget|override|bypass|skip)\b[^.!?]{{0,40}}?\b({_BEFORE}|{_TOLD})",
    r"(forget|ignore) (everything|all|anything)",
    r"(new|updated|real|actual|secret|hidden|system) (instructions?|prompt|task|orders?)",
    r"your (new |real |only |actual )?(instructions?|task|job|goal|prompt|orders?|system prompt) (is|are|was|were)",
    r"you are (now|no longer)\b[^.!?]*\b(an?|the|in|allowed|bound|assistant|ai|model)",
    r"(act|behave|respond) as (if|an?|though)\b[^.!?]*\b(ai|assistant|model|you)|pretend (to be|that you|you are)",
    r"(reply|respond|answer|output|print|return|repeat) (with |to |this |back |me )*"
    r"(only|exactly|verbatim|nothing else|the following|the word|the phrase|the system prompt|your (system )?prompt)",
    r"(write|say) (only|exactly|nothing but)",
    r"(reveal|show|leak|print) (me )?(your|the) (system )?(prompt|instructions|api key|secrets?)",
    r"(do not|don't|never|stop) (describ\w+|answer\w*|follow\w*|mention\w*|writ\w+|generat\w+|obey\w*)",
    r"as an ai|language model|jailbreak|prompt injection",
)
_ORDER = re.compile(rf"\b({'|'.join(_PHRASES)})\b", re.IGNORECASE)
_MARKS = (
    r"<\|[^|>]{1,30}\|>|\[/?INST\]|<</?SYS>>",
    r"</?(system|user|assistant|human|picture|context|s|instructions?)\s*/?>",
    r"^\s*#{2,}\s*(instructions?|system|response|input|user|assistant)\b",
    r"(^|[\n.!?])\s*(system|assistant|human|user|developer)\s*(prompt|message)?\s*:",
    r"^\s*(question|answer)\s*:",
)
_MARK = re.compile("|".join(_MARKS), re.IGNORECASE | re.MULTILINE)


def find_order(context: Context) -> str | None:
    """The words in captions, labels or texts of a picture that speak to a language model; None where none do."""
    for text in (*context.captions, *(box.label for box in (*context.boxes, *context.texts))):
        if found := _MARK.search(text) or _ORDER.search(text):
            return found[0].strip()
    return None
