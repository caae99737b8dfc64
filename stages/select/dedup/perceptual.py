"""Duplicates by perceptual hash: nearly the same pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from stages.select.dedup.link import to_kept

_MAX_BAND_BITS = 22
_PAIRS_AT_ONCE = 1 << 22


def perceptual_duplicates(hashes: np.ndarray, max_hamming: int) -> np.ndarray:
    """For each row the place of the nearest kept row before it within `max_hamming` bits; -1 where the row is kept.

    Args:
        hashes: uint64 [n], in order of preference.

    Returns:
        int64 [n]; of two equally near, the one that comes first.
    """
    # Rows with one hash have the same neighbours, so the first of them stands for all.
    unique, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    left, right = hamming_pairs(unique, max_hamming)
    earlier, later = np.minimum(first[left], first[right]), np.maximum(first[left], first[right])
    distance = np.bitwise_count(unique[left] ^ unique[right])
    keeper_of_first = to_kept(len(hashes), earlier, later, distance)[first]
    keeper = np.where(keeper_of_first < 0, first, keeper_of_first)[group]
    return np.where(keeper == np.arange(len(hashes)), -1, keeper)


def hamming_pairs(hashes: np.ndarray, max_hamming: int) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of places whose hashes differ in at most `max_hamming` bits, without comparing all with all.

    Multi-index hashing (Norouzi, Punjani and Fleet 2012): the bits are cut into m bands; two hashes that differ in
    k = m * r + a bits differ in at most r bits in one of the first a + 1 bands, or in at most r - 1 in another.
    Exact. The number of bands is the one with the least work for this many hashes.

    Args:
        hashes: uint64 [n], all different.

    Returns:
        (left, right): int64, `left < right`, each pair once.
    """
    count = len(hashes)
    found = [np.empty(0, np.int64)]
    for shift, bits, radius in _bands(count, max_hamming):
        keys = ((hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)).astype(np.int64)
        by_key = np.argsort(keys, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=1 << bits))])
        for flip in _flips(bits, radius):
            for left, right in _in_buckets(keys ^ flip, starts, by_key):
                near = (left < right) & (np.bitwise_count(hashes[left] ^ hashes[right]) <= max_hamming)
                found.append(left[near] * count + right[near])
    pairs = np.unique(np.concatenate(found))
    return pairs // max(count, 1), pairs % max(count, 1)


def _bands(count: int, max_hamming: int) -> list[tuple[int, int, int]]:
    """(shift, bits, radius) of each band that must be searched."""
    choices = []
    for number in range(math.ceil(64 / _MAX_BAND_BITS), max(math.ceil(64 / _MAX_BAND_BITS), max_hamming + 1) + 1):
        radius, rest = divmod(max_hamming, number)
        edges = [64 * band // number for band in range(number + 1)]
        bands = [
            (edges[band], edges[band + 1] - edges[band], radius if band <= rest else radius - 1)
            for band in range(number)
            if radius > 0 or band <= rest
        ]
        work = sum(
            (1 << bits) + count * (1 + count / (1 << bits)) * sum(math.comb(bits, flips) for flips in range(r + 1))
            for _, bits, r in bands
        )
        choices.append((work, bands))
    return min(choices)[1]


def _flips(bits: int, radius: int) -> Iterator[int]:
    """All masks of `bits` bits with at most `radius` ones."""
    for number in range(radius + 1):
        for places in combinations(range(bits), number):
            yield sum(1 << place for place in places)


def _in_buckets(keys: np.ndarray, starts: np.ndarray, by_key: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of each row with every row in the bucket `keys[row]`, in pieces of bounded size."""
    first = starts[keys]
    number = starts[keys + 1] - first
    ends = np.cumsum(number)
    begin = 0
    while begin < len(keys):
        done = ends[begin - 1] if begin else 0
        end = max(int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, side="right")), begin + 1)
        sizes = number[begin:end]
        left = np.repeat(np.arange(begin, end), sizes)
        offset = np.arange(len(left)) - np.repeat(ends[begin:end] - sizes - done, sizes)
        yield left, by_key[np.repeat(first[begin:end], sizes) + offset]
        begin = end
