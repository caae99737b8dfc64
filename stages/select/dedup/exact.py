"""Duplicates by content: the same bytes."""

from __future__ import annotations

import numpy as np


def exact_duplicates(digests: np.ndarray) -> np.ndarray:
    """For each row the place of the kept row with the same digest; -1 where the row itself is kept.

    Args:
        digests: [n], any type that sorts; in order of preference.

    Returns:
        int64 [n].
    """
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    keeper = first[group]
    return np.where(keeper == np.arange(len(digests)), -1, keeper)
