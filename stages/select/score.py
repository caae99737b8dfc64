"""The threshold on the CLIP score."""

from __future__ import annotations

import math

import numpy as np

from stages.select.settings import KeepSettings

_BINS_PER_UNIT = 50


def threshold(scores: np.ndarray, keep: KeepSettings | None) -> float | None:
    """The lowest score that is kept; None where no threshold is asked for or there is no score.

    Args:
        scores: float32 [n], of every sample that has one, whatever the rules say of it: changing a rule does not
            move the threshold.
        keep: with `top`, the best ceil(top * n) are kept, and all that tie with the last of them.
    """
    if keep is None:
        return None
    if keep.min is not None:
        return keep.min
    if keep.top is None or not len(scores):
        return None
    # The small term keeps 0.3 * 10 from being 4 when floating point makes it 3.0000000000000004.
    kept = max(1, math.ceil(keep.top * len(scores) - 1e-9))
    return float(np.partition(scores, len(scores) - kept)[len(scores) - kept])


def histogram(scores: np.ndarray) -> dict[str, list[float] | list[int]]:
    """Counts of scores in bins of 0.02, with one more edge than counts; empty where there is no score."""
    if not len(scores):
        return {"edges": [], "counts": []}
    low = math.floor(float(scores.min()) * _BINS_PER_UNIT)
    high = max(math.ceil(float(scores.max()) * _BINS_PER_UNIT), low + 1)
    edges = np.arange(low, high + 1) / _BINS_PER_UNIT
    counts, _ = np.histogram(scores.astype(np.float64), edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}
