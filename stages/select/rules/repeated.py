"""The rule on captions that stand beside many different pictures, so that they cannot say much of any of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from schemas.vocabulary import Reason
from stages.select.rules.base import Rule


class MaxCaptionRepeats(Rule):
    name = "max_caption_repeats"
    reason = Reason.CAPTION_REPEATED
    limit = (
        int | None,
        Field(None, ge=1, description="different pictures in the whole source that may have the same caption, at most"),
    )
    measure = "caption_repeats"
    keeps = "at_most"
    needs_all_rows = "give select.rules.boilerplate: true, which knows the usual ones"

    @staticmethod
    def measured(samples: pa.Table, limit: int) -> pa.Array:
        """Different pictures, by their pixels, that have the row's caption; case, signs and spaces do not count."""
        captions = pc.utf8_lower(pc.utf8_normalize(samples["caption"].combine_chunks(), "NFKC"))
        text = _codes(pc.utf8_trim_whitespace(pc.replace_substring_regex(captions, r"[\s\p{P}]+", " ")))
        content = _codes(pc.coalesce(samples["pixels_sha256"], samples["sha256"]).combine_chunks())
        pictured = pc.is_null(samples["reason"]).to_numpy() & (content >= 0) & (text >= 0)
        number = content.max(initial=0) + 1
        pairs = np.unique(text[pictured] * number + content[pictured])
        pictures = np.bincount(pairs // number, minlength=text.max(initial=0) + 1)
        return pa.array(pictures[text], mask=~pictured)


def _codes(column: pa.Array) -> np.ndarray:
    """int64, a number for each distinct value; -1 for null."""
    return column.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64)
