"""Whether a text is in another language than those that are asked for."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from stages.language import likeliest_languages

#: Shorter texts (letters) in Latin script tell nothing; in other scripts a few letters do.
_LETTERS, _LETTERS_OTHER = 28, 4
#: Another language must be at least so probable, and each that is asked for less than the second.
_SURE, _UNLIKELY = 0.5, 0.05
_CANDIDATES = 5


def other_language(text: str, asked: Collection[str]) -> str | None:
    """The language that a text is clearly in and that is not asked for, ISO 639; None where there is none.

    A name in another script within an English sentence is no other language; a text that is mostly in one is.
    """
    text = " ".join(text.split())
    letters = [character for character in text if character.isalpha()]
    other = sum(not unicodedata.name(character, "").startswith("LATIN") for character in letters)
    mostly_other = 2 * other > len(letters)
    if len(letters) < (_LETTERS_OTHER if mostly_other else _LETTERS):
        return None
    found = dict(likeliest_languages(text, _CANDIDATES))
    best = max(found, key=lambda language: found[language])
    if max((found.get(language, 0.0) for language in asked), default=0.0) >= _UNLIKELY:
        return None
    return best if found[best] >= _SURE or mostly_other else None
