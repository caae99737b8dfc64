"""Runs of words that texts share, by hash: no text is compared with all others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HAN_AND_KANA = r"([\x{3040}-\x{30ff}\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}])"


def shared_ngrams(texts: pa.Array, known: pa.Array, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of `texts` hold a run of `length` words that one of `known` holds too.

    Words are compared in lower case and without signs between them; each Chinese character or kana is a word. A text
    of fewer words holds no run. Of several known texts that hold a run, the first stands for it.

    Args:
        texts, known: string arrays; a null holds nothing.

    Returns:
        (text, known, number): int64, the places of the two and how many runs they share; each pair once, in order.
    """
    words, owner = _words(pa.concat_arrays([known.cast(pa.string()), texts.cast(pa.string())]))
    begins = np.flatnonzero(owner[: max(len(owner) - length + 1, 0)] == owner[length - 1 :])
    code = np.zeros(len(begins), np.uint64)
    for offset in range(length):
        code = (code ^ words[begins + offset].astype(np.uint64)) * _FACTOR
        code ^= code >> np.uint64(29)
    asked = int(np.searchsorted(owner[begins], len(known)))
    if not asked:
        return (np.empty(0, np.int64),) * 3
    runs, first = np.unique(code[:asked], return_index=True)
    found = np.searchsorted(runs, code[asked:]).clip(max=len(runs) - 1)
    same = np.flatnonzero(runs[found] == code[asked:])
    ours, theirs = begins[asked + same], begins[first[found[same]]]
    for offset in range(length):  # equal hashes may, however seldom, be of different words
        equal = words[ours + offset] == words[theirs + offset]
        ours, theirs = ours[equal], theirs[equal]
    pairs, number = np.unique((owner[ours] - len(known)) * len(known) + owner[theirs], return_counts=True)
    return pairs // len(known), pairs % len(known), number


def _words(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A number for every word of every text, and the text that it stands in, in order."""
    plain = pc.utf8_lower(texts.fill_null(""))
    plain = pc.replace_substring_regex(plain, _HAN_AND_KANA, r" \1 ")
    plain = pc.replace_substring_regex(plain, r"[^\p{L}\p{M}\p{N}]+", " ")
    split = pc.split_pattern(pc.utf8_trim_whitespace(plain), " ")
    owner = pc.list_parent_indices(split).to_numpy()
    words = pc.list_flatten(split)
    some = pc.not_equal(words, "")
    codes = words.filter(some).dictionary_encode().indices.to_numpy()
    return codes, owner[some.to_numpy(zero_copy_only=False)].astype(np.int64)
