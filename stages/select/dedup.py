"""Finds duplicates among samples that stand in order of preference, best first.

All three kinds follow one rule, `to_kept`: in order, a sample is dropped if it is too near one that was kept before it.
A chain A-B-C where A and C are not near each other so loses B alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import faiss
import numpy as np

#: Up to this many samples every vector is compared with every kept one; beyond it only within the nearest clusters.
FLAT_LIMIT = 50_000
_BLOCK_ROWS = 2048
_PROBED_CLUSTERS = 16
_TRAINING_ROWS_PER_CLUSTER = 64
_MAX_BAND_BITS = 22
_PAIRS_AT_ONCE = 1 << 22


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


def semantic_duplicates(vectors: np.ndarray, min_cosine: float) -> np.ndarray:
    """For each row the place of the kept row before it with the highest cosine, if that is at least `min_cosine`.

    Up to `FLAT_LIMIT` rows every row is compared with every kept one. Beyond, it is compared within the k-means
    clusters nearest to it (SemDeDup, Abbas et al. 2023), and a pair that lies across far borders is missed.

    Args:
        vectors: floating [n, dim] of length 1, in order of preference.
        min_cosine: over 0.

    Returns:
        int64 [n]; -1 where the row is kept.
    """
    count = len(vectors)
    keeper = np.full(count, -1, np.int64)
    index = _vector_index(vectors)
    kept_rows = np.empty(0, np.int64)  # the place of each vector in the index
    for start in range(0, count, _BLOCK_ROWS):
        block = _unit(vectors[start : start + _BLOCK_ROWS])
        cosine, nearest = index.search(block, 1)
        cosine, nearest = cosine[:, 0], nearest[:, 0]
        known = (nearest >= 0) & (cosine >= min_cosine)
        among = np.tril(block @ block.T, -1)
        later, earlier = np.nonzero((among >= min_cosine) & ~known[:, None] & ~known)
        within = to_kept(len(block), earlier, later, -among[later, earlier])
        kept = ~known & (within < 0)
        among[:, ~kept] = 0
        best = among.argmax(axis=1)
        closer = ~kept & (among.max(axis=1) > np.where(known, cosine, 0))
        keeper[start : start + len(block)][known] = kept_rows[nearest[known]]
        keeper[start : start + len(block)][closer] = start + best[closer]
        index.add(block[kept])
        kept_rows = np.concatenate([kept_rows, start + np.flatnonzero(kept)])
    return keeper


def to_kept(count: int, earlier: np.ndarray, later: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """For each row the nearest kept row before it that it is paired with; -1 where the row itself is kept.

    A row is dropped if, and only if, it is paired with a kept row before it.

    Args:
        count: number of rows.
        earlier, later: places of the two rows of each pair, `earlier < later`.
        distance: of each pair; of two equally near, the one that comes first is taken.

    Returns:
        int64 [count].
    """
    undecided, kept, dropped = 0, 1, 2
    state = np.full(count, kept, np.uint8)
    state[later] = undecided
    blocked = np.zeros(count, bool)
    one, other = earlier, later
    while len(other):
        state[other[state[one] == kept]] = dropped
        open_rows = other[state[other] == undecided]
        live = (state[other] == undecided) & (state[one] == undecided)
        one, other = one[live], other[live]
        blocked[other] = True
        state[open_rows[~blocked[open_rows]]] = kept
        blocked[other] = False
    links = (state[earlier] == kept) & (state[later] == dropped)
    earlier, later, distance = earlier[links], later[links], distance[links]
    best = np.lexsort((earlier, distance, later))
    rows, place = np.unique(later[best], return_index=True)
    keeper = np.full(count, -1, np.int64)
    keeper[rows] = earlier[best][place]
    return keeper


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


def _vector_index(vectors: np.ndarray) -> faiss.Index:
    """An empty index by inner product; for many vectors, with clusters learned from evenly spaced ones."""
    count, dim = vectors.shape
    flat = faiss.IndexFlatIP(dim)
    if count <= FLAT_LIMIT:
        return flat
    clusters = 2 * math.isqrt(count)
    index = faiss.IndexIVFFlat(flat, dim, clusters, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.nprobe = _PROBED_CLUSTERS
    learned = min(count, clusters * _TRAINING_ROWS_PER_CLUSTER)
    index.train(_unit(vectors[np.linspace(0, count - 1, learned).astype(np.int64)]))
    return index


def _unit(vectors: np.ndarray) -> np.ndarray:
    """float32 of length 1: stored float16 vectors are off by a rounding."""
    exact = vectors.astype(np.float32)
    return exact / np.maximum(np.linalg.norm(exact, axis=1, keepdims=True), 1e-12)
