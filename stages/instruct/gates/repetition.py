"""Answers that go round in circles."""

from __future__ import annotations

import re
from collections import Counter

from schemas.vocabulary import Reason
from stages.instruct.gates.base import Gate, Said, Verdict

#: InternVL's rule: words in a run, and the share of runs that stand there more than once.
_GRAM, _SHARE = 10, 0.4
#: A sentence of at least so many words is not said twice.
_SENTENCE = 4
#: A run of so many words does not follow upon itself, with at most one word between.
_ECHO = 6


class Repetition(Gate):
    """By the share of 10-grams that are repeated (InternVL: above 0.4), loops of a few words, and echoed sentences."""

    def verdict(self, said: Said) -> Verdict | None:
        answer = said.turn.answer.lower()
        words = re.findall(r"\w+(?:['-]\w+)*", answer)
        share = _repeated_share(words)
        if share > _SHARE:
            return Reason.REPETITION, f"{share:.0%} of its runs of {_GRAM} words are repeated"
        if loop := _loop(words):
            return Reason.REPETITION, f"again and again: {loop}"
        sentences = [tuple(re.findall(r"\w+", sentence)) for sentence in re.split(r"[.!?\n]+", answer)]
        counts = Counter(sentence for sentence in sentences if len(sentence) >= _SENTENCE)
        earlier = {turn.answer.lower() for turn in said.earlier}
        if counts and (most := counts.most_common(1)[0])[1] > 1:
            return Reason.REPETITION, f"said twice: {' '.join(most[0])}"
        if len(words) >= _ECHO and answer in earlier:
            return Reason.REPETITION, "the answer of an earlier turn"
        return None


def _repeated_share(words: list[str]) -> float:
    """The share of runs of `_GRAM` words that occur more than once; 0 for shorter texts."""
    counts = Counter(tuple(words[place : place + _GRAM]) for place in range(len(words) - _GRAM + 1))
    return sum(number for number in counts.values() if number > 1) / max(1, counts.total())


def _loop(words: list[str]) -> str | None:
    """A run of 1 to 5 words that stands three times in a row, or a longer one that stands twice."""
    for length in range(1, len(words) // 2 + 1):
        times = 3 if length < _ECHO else 2
        for start in range(len(words) - length * times + 1):
            run = words[start : start + length]
            if all(words[start + length * k : start + length * (k + 1)] == run for k in range(1, times)):
                return " ".join(run)
            if length >= _ECHO and words[start + length + 1 : start + 2 * length + 1] == run:
                return " ".join(run)
    return None
