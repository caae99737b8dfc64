"""The threshold on the CLIP score: one for all rows, or one for each language or source."""

from __future__ import annotations

import math
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.rules.language import detect_languages
from stages.select.settings import KeepSettings

_BINS_PER_UNIT = 50
_GROUPS_SHOWN = 50
_NO_HOST = "none"


def ask_clip(rows: Candidates, keep: KeepSettings | None, name: str = "clip.keep", measure: str = "clip_score") -> None:
    """Drops what scores too low; the score, `measure`, is kept already.

    Where every language or source has a threshold of its own, what is compared is `<measure>_margin`: the score less
    the lowest score that is kept in the row's group.

    Args:
        name: the threshold's key in the recipe, under `select`.
    """
    if keep is None:
        return
    score = rows.measures[measure]
    if keep.by == "all":
        lowest = threshold(score, keep)
        if lowest is not None:
            rows.ask(f"{name}.{keep.form}", measure, "at_least", lowest, Reason.CLIP_SCORE)
        return
    group, names = groups(rows.samples, keep.by)
    lowests = np.full(len(names), np.nan, np.float32)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(len(names) + 1))
    for number in range(len(names)):
        lowest = threshold(score[order[edges[number] : edges[number + 1]]], keep)
        lowests[number] = np.nan if lowest is None else lowest
    rows.measure(f"{measure}_margin", score - lowests[group])
    largest = np.argsort(-np.diff(edges), kind="stable")[:_GROUPS_SHOWN]
    shown = {names[number]: float(lowests[number]) for number in largest if not np.isnan(lowests[number])}
    rows.ask(f"{name}.{keep.form}", f"{measure}_margin", "at_least", 0.0, Reason.CLIP_SCORE, shown)


def threshold(scores: np.ndarray, keep: KeepSettings | None) -> float | None:
    """The lowest score that is kept; None where no threshold is asked for or there is no score.

    Args:
        scores: float32 [n], of every sample that has one (NaN: it has none), whatever the rules say of it: changing a
            rule does not move the threshold.
        keep: with `top`, the best ceil(top * n) are kept, and all that tie with the last of them.
    """
    if keep is None:
        return None
    if keep.min is not None:
        return keep.min
    scores = scores[~np.isnan(scores)]
    if keep.top is None or not len(scores):
        return None
    # The small term keeps 0.3 * 10 from being 4 when floating point makes it 3.0000000000000004.
    kept = max(1, math.ceil(keep.top * len(scores) - 1e-9))
    return float(np.partition(scores, len(scores) - kept)[len(scores) - kept])


def groups(samples: pa.Table, by: str) -> tuple[np.ndarray, list[str]]:
    """The group of each row, and the groups' names.

    Args:
        by: `language`: that of the caption, as detected; `source`: the URL's host, and for pictures that are not
            downloaded the folder they lie in.

    Returns:
        int64 [n] into the names, which are sorted.
    """
    if by == "language":
        names = detect_languages(samples["caption"])
    else:
        names = pa.array([_source(url) for url in samples["url"].to_pylist()], pa.string())
    coded = names.dictionary_encode()
    order = pc.sort_indices(coded.dictionary).to_numpy()
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order), dtype=order.dtype)
    return rank[coded.indices.to_numpy()].astype(np.int64), coded.dictionary.take(pa.array(order)).to_pylist()


def histogram(scores: np.ndarray) -> dict[str, list[float] | list[int]]:
    """Counts of scores in bins of 0.02, with one more edge than counts; empty where there is no score."""
    scores = scores[~np.isnan(scores)]
    if not len(scores):
        return {"edges": [], "counts": []}
    low = math.floor(float(scores.min()) * _BINS_PER_UNIT)
    high = max(math.ceil(float(scores.max()) * _BINS_PER_UNIT), low + 1)
    edges = np.arange(low, high + 1) / _BINS_PER_UNIT
    counts, _ = np.histogram(scores.astype(np.float64), edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _source(url: str | None) -> str:
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return _NO_HOST
    return parts.hostname or parts.path.rpartition("/")[0] or _NO_HOST
