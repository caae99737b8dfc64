"""The rule on the caption's language."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from schemas.errors import InputError
from schemas.vocabulary import Reason
from stages.language import likeliest_languages
from stages.select.rules.base import Rule

#: What stands for the language of a caption that has none.
NO_LANGUAGE = "none"

#: How much more probable another language must be: of a word or two the detector knows little.
_SURE = 0.25
_CANDIDATES = 5


class Languages(Rule):
    """Drops what is clearly in another language; a caption too short or too strange to tell passes."""

    name = "languages"
    reason = Reason.CAPTION_LANGUAGE
    limit = (
        list[Annotated[str, Field(pattern="^[a-z]{2,3}$")]] | None,
        Field(None, min_length=1, description="languages that captions may be in, ISO 639 codes, for example [en, de]"),
    )
    measure = "other_language"
    keeps = "at_most"

    @staticmethod
    def measured(samples: pa.Table, limit: list[str]) -> pa.Array:
        """Probability of the likeliest language that is not asked for, less that of the likeliest that is.

        Raises:
            InputError: the detector does not know one of the languages.
        """
        for language in limit:
            if language not in _known():
                raise InputError(f"select.rules.languages: '{language}' is none of the detector's languages: "
                                 f"{', '.join(sorted(_known()))}")  # fmt: skip
        lead = []
        texts = samples["caption"].combine_chunks().dictionary_encode()
        for text in texts.dictionary.to_pylist():
            found = likeliest_languages(text, _CANDIDATES)
            asked = max((share for language, share in found if language in limit), default=0.0)
            other = max((share for language, share in found if language not in limit), default=0.0)
            lead.append(other - asked)
        return pa.array(lead, pa.float32()).take(texts.indices)

    @classmethod
    def depends(cls, limit: list[str]) -> Any:
        return sorted(limit)

    @classmethod
    def bound(cls, limit: Any) -> float:
        return _SURE


def detect_languages(captions: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The likeliest language of each caption, an ISO 639 code; `NO_LANGUAGE` where there is no text."""
    whole = captions.combine_chunks() if isinstance(captions, pa.ChunkedArray) else captions
    texts = whole.fill_null("").dictionary_encode()
    names = [
        likeliest_languages(text, 1)[0][0] if text.strip() else NO_LANGUAGE for text in texts.dictionary.to_pylist()
    ]
    return pa.array(names, pa.string()).take(texts.indices)


@cache
def _known() -> frozenset[str]:
    return frozenset(language for language, _ in likeliest_languages("", -1))
