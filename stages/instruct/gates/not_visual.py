"""Questions that need no picture: the language model gives the same answer without any context."""

from __future__ import annotations

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict
from stages.instruct.objects import name_of

#: Words that tell no answer from another.
_EMPTY = {"a", "an", "the", "it", "there", "be", "is", "are", "this", "that", "in", "on", "of", "picture", "image"}
_YES_NO = {"yes", "no"}
_NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8"}
#: Of the words that carry the shorter answer, as many must stand in the other.
_SAME = 0.9
#: An answer of more words is never the same by chance of a few.
_LENGTHS = 3


class NotVisual(Gate):
    """Off by default: it costs one request for every question."""

    scope = False
    place = 9
    blind = True

    def verdict(self, said: Said) -> Verdict | None:
        if said.blind is None:
            return None
        if same_answer(said.turn.answer, said.blind):
            return Reason.NOT_VISUAL, f"answered without the picture: {said.blind.strip()[:80]}"
        return None


def same_answer(answer: str, other: str) -> bool:
    """Whether two answers say the same: their words agree, but for those that carry nothing, and so do yes and no."""
    first, second = _words(answer), _words(other)
    if [word for word in first[:1] if word in _YES_NO] != [word for word in second[:1] if word in _YES_NO]:
        return False
    one, two = set(first) - _EMPTY - _YES_NO, set(second) - _EMPTY - _YES_NO
    if not one and not two:
        return bool(first) and bool(second)
    if not one or not two:
        return False
    if max(len(one), len(two)) > _LENGTHS * min(len(one), len(two)):
        return False
    return len(one & two) >= _SAME * min(len(one), len(two))


def _words(text: str) -> tuple[str, ...]:
    return tuple(_NUMBERS.get(word, word) for word in name_of(text))
