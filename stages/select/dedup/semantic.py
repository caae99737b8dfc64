"""Duplicates by CLIP vector: nearly the same content."""

from __future__ import annotations

import math

import faiss
import numpy as np

from stages.select.dedup.link import to_kept

#: Up to this many samples every vector is compared with every kept one; beyond it only within the nearest clusters.
FLAT_LIMIT = 50_000
_BLOCK_ROWS = 2048
_PROBED_CLUSTERS = 16
_TRAINING_ROWS_PER_CLUSTER = 64


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
