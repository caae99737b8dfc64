"""Rules on the number of a caption's words, and on how many of them are different."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from schemas.vocabulary import Reason
from stages.select.rules.base import Rule

#: Shorter captions say few words twice, or are too short to tell.
_LONG_WORDS = 6


class MinCaptionWords(Rule):
    name = "min_caption_words"
    reason = Reason.CAPTION_SHORT
    limit = (int | None, Field(None, ge=1, description="words in the caption at least"))
    measure = "caption_words"
    keeps = "at_least"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.count_substring_regex(samples["caption"], r"\S+")


class MaxCaptionWords(Rule):
    name = "max_caption_words"
    reason = Reason.CAPTION_LONG
    limit = (int | None, Field(None, ge=1, description="words in the caption at most"))
    measure = "caption_words"
    keeps = "at_most"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.count_substring_regex(samples["caption"], r"\S+")


class MinCaptionVariety(Rule):
    name = "min_caption_variety"
    reason = Reason.CAPTION_VARIETY
    limit = (
        float | None,
        Field(None, gt=0, le=1, description=f"share of different words at least, from {_LONG_WORDS} words on"),
    )
    measure = "caption_variety"
    keeps = "at_least"

    @staticmethod
    def measured(samples: pa.Table, limit: float) -> pa.Array:
        words = pc.split_pattern_regex(pc.utf8_lower(samples["caption"].combine_chunks()), r"[\s\p{P}]+")
        row, word = pc.list_parent_indices(words), pc.list_flatten(words)
        said = pc.not_equal(word, "").to_numpy(zero_copy_only=False)
        row = row.to_numpy()[said]
        code = word.dictionary_encode().indices.to_numpy()[said]
        pairs = np.unique(row * (code.max(initial=0) + 1) + code) // (code.max(initial=0) + 1)
        count = np.bincount(row, minlength=len(samples))
        different = np.bincount(pairs, minlength=len(samples))
        return pa.array(different / np.maximum(count, 1), mask=count < _LONG_WORDS)
