"""Duplicates by content: the same bytes, or the same pixels once they are decoded."""

from __future__ import annotations

import numpy as np

from stages.select.dedup.link import join


def exact_duplicates(*digests: np.ndarray) -> np.ndarray:
    """For each row the place of the first row that shares a digest of any kind with it; -1 where it is the first.

    Args:
        digests: each [n], any type that sorts; in order of preference.

    Returns:
        int64 [n].
    """
    row = np.arange(len(digests[0]))
    first = row
    for kind in digests:
        _, begin, group = np.unique(kind, return_index=True, return_inverse=True)
        first = join(first, begin[group], row)
    return np.where(first == row, -1, first)
