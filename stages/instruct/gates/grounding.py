"""Answers that name an object which neither captions nor boxes support (as CHAIR counts them, Rohrbach et al. 2018)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict
from stages.instruct.language import other_language
from stages.instruct.objects import lexicon

_CLOSED_QUESTION = re.compile(
    r"^\W*(is|are|was|were|do|does|did|can|could|has|have|would|will|should|might|may|if|whether)\b", re.IGNORECASE
)
_YES = re.compile(
    r"^\W*(yes|yeah|yep|correct|indeed|right|certainly|absolutely|of course|there (is|are)\b(?! no))", re.IGNORECASE
)
_TURN = r"\b(but|however|only|except|instead|although|though|rather|just)\b"
_NO = r"\b(no|not|none|never|neither|nor|without|nothing|nobody|cannot|lacks?|lacking|absent|missing|[a-z]+n't)\b"
#: What is said not to be there: to the end of the clause, and on over commas where a list goes on with "or".
_DENIED = re.compile(
    rf"{_NO}([^.;:!?,]*?(,[^.;:!?]*\b(or|nor)\b))?((?!{_TURN})[^.;:!?,])*"
    r"|\b(rather than|instead of|unlike)\b[^.;:!?,]*"
    # "No, a cat is not part of it": what stands before the verb is denied, too.
    rf"|[^.;:!?,]*\b(is|are|was|were|do|does|did|has|have|can)(n't| not| nowhere)\b(?!\s+(only|just)\b)"
    r" *(be )?(\w+ )?(part|present|visible|there|here|shown|among|seen|found|included|depicted|appear"
    r"|in (the|this) (picture|image|scene))\b",
    re.IGNORECASE,
)
#: Sentences of thought beyond what is seen.
_THOUGHTS = (
    r"might|may|could|would|perhaps|maybe|probably|possibly|likely|suggest(s|ing)?|imagine|should|needs?|needed|if|when",
    r"often|usually|typically|commonly|generally|in general|for example|such as|because|people use|known for",
    r"as (if|though)|looks? like|seems? like|resembles?|remind(s|ing)?|associated|symboli[sz]es?|represents?",
    r"used (for|to|by|in)",
)
_THOUGHT = re.compile(rf"\b({'|'.join(_THOUGHTS)})\b", re.IGNORECASE)


class Grounding(Gate):
    """Names of the same meaning, plurals, kinds and words of labels are innocent, and so is what is denied.

    A question counts as said where it takes an object for granted ("What colour is the dog?") or is answered with yes.
    Knows English: where captions are in another language, or the turn is, it passes.
    """

    place = 2  # after the leaks: of a "bounding box" the reason is not that there is no box

    def verdict(self, said: Said) -> Verdict | None:
        if not _english(*said.scene.context.captions) or not _english(said.turn.question, said.turn.answer):
            return None
        for text in _claims(said):
            for mention in lexicon().mentions(text, said.scene.labels):
                if mention.name not in said.scene.support:
                    return Reason.UNGROUNDED, mention.said
        return None


def _english(*texts: str) -> bool:
    return other_language(" ".join(texts), ("en",)) is None


def _claims(said: Said) -> Iterator[str]:
    """What the turn says to be there."""
    question, answer = said.turn.question.replace("’", "'"), said.turn.answer.replace("’", "'")
    denied = bool(_DENIED.search(answer))
    taken = not denied if not _CLOSED_QUESTION.search(question) else bool(_YES.search(answer)) and not denied
    if taken and not (said.kind.beyond_sight and _THOUGHT.search(question)):
        yield _DENIED.sub(" ", question)
    for sentence in re.split(r"(?<=[.!?])\s+", answer):
        if not (said.kind.beyond_sight and _THOUGHT.search(sentence)):
            yield _DENIED.sub(" ", sentence)
