"""Duplicates by perceptual hash: nearly the same pixels, be they mirrored or cut to their centre."""

from __future__ import annotations

import numpy as np

from stages.select.dedup.fingerprints import Fingerprints
from stages.select.dedup.hamming import hamming_pairs
from stages.select.dedup.likeness import alike
from stages.select.dedup.link import Link, keepers
from stages.select.dedup.settings import PerceptualSettings


def perceptual_duplicates(
    prints: Fingerprints, settings: PerceptualSettings, link: Link = "to_kept", settled: int = 0
) -> np.ndarray:
    """For each row the place of the row that is kept in its stead; -1 where the row itself is kept.

    Args:
        settled: the first so many rows are kept whatever they are near to.

    Returns:
        int64 [n]. By `to_kept`, of the kept ones the one whose hash is nearest, of these the one that comes first.
    """
    # Rows with one fingerprint have the same neighbours, so the first of them stands for all.
    first = _first_alike(prints)
    row = np.arange(len(first))
    own = np.flatnonzero(first == row)
    pairs = perceptual_pairs(prints.take(own), settings)
    keeper = keepers(link, len(own), *pairs, settled=int(np.searchsorted(own, settled)))
    place = np.where(keeper < 0, own, own[keeper])[np.searchsorted(own, first)]
    return np.where((place == row) | (row < settled), -1, place)


def perceptual_pairs(prints: Fingerprints, settings: PerceptualSettings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows that are nearly the same picture: hashes within `max_hamming`, and thumbnails that are alike.

    One of the two is taken as it is, the other also mirrored and cut to its centre, as the settings say.

    Returns:
        (earlier, later, distance): int64 places, `earlier < later`, and the bits in which the hashes differ. A pair
        that is found in several ways is there as often.
    """
    count = len(prints.hashes)
    views = np.flatnonzero([True, settings.mirrored, settings.cropped, settings.mirrored and settings.cropped])
    stacked = prints.hashes[:, views].T.ravel()
    one, other = hamming_pairs(stacked, settings.max_hamming, targets=count)
    distance = np.bitwise_count(stacked[one] ^ stacked[other]).astype(np.int64)
    view, other = views[other // max(count, 1)], other % max(count, 1)
    right = one != other
    if settings.min_likeness is not None:
        right &= alike(prints.thumbnails, one, other, view, settings) | ~(prints.known[one] & prints.known[other])
    one, other, distance = one[right], other[right], distance[right]
    return np.minimum(one, other), np.maximum(one, other), distance


def _first_alike(prints: Fingerprints) -> np.ndarray:
    """For each row the first one with the same fingerprint."""
    _, group, number = np.unique(prints.hashes[:, 0], return_inverse=True, return_counts=True)
    shared = np.flatnonzero(number[group] > 1)
    content = [prints.hashes[shared].view(np.uint8), prints.thumbnails[shared], prints.known[shared, None]]
    rows = np.ascontiguousarray(np.concatenate(content, axis=1, dtype=np.uint8))
    _, begin, group = np.unique(rows.view(f"V{rows.shape[1]}").ravel(), return_index=True, return_inverse=True)
    first = np.arange(len(prints.hashes))
    first[shared] = shared[begin[group]]
    return first
