"""Vectors in overlapping clusters, so that near ones meet in one of them: k-means in two levels.

Every row stands in the `COPIES` clusters whose centres are nearest, because the nearest alone would part pairs that
lie at a border (about half of them where the vectors have no clusters at all). Clusters have the same size however
many vectors there are; to find a row's, the centres are searched in two levels, so that the work grows hardly faster
than the rows.

Nothing hangs on the number of threads: vectors and centres are rounded to whole numbers, whose products add up to
less than 2**24, so that float32 holds every sum exactly in whatever order it is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import faiss
import numpy as np
import torch

ROWS_PER_CLUSTER = 512
COPIES = 5
_PROBED = 8
_LEARNED_FROM = 48
_ROUNDS = 8
_SCALE = 1024
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Clusters:
    """Rows by cluster.

    Attributes:
        starts: int64 [clusters + 1], where each cluster begins in `members`.
        members: int64, rows of each cluster in ascending order; a row stands in several.
    """

    starts: np.ndarray
    members: np.ndarray

    def of(self, chosen: np.ndarray) -> Clusters:
        """The same clusters with those rows alone for which `chosen` (bool [n]) is true."""
        inside = chosen[self.members]
        before = np.concatenate([[0], np.cumsum(inside)])
        return Clusters(before[self.starts], self.members[inside])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.members[start:end] for start, end in zip(self.starts[:-1], self.starts[1:], strict=True))


@dataclass(frozen=True)
class Centres:
    """Centres of clusters, less the mean of all vectors.

    CLIP's vectors lie in a narrow cone. What is common to all of them tells nothing apart, and a centre that is near
    it would draw rows from everywhere.

    Attributes:
        mean: float32 [dim].
        cells: float32 [k, dim], k at least 1, of each cell of the upper level; not of length 1.
    """

    mean: np.ndarray
    cells: list[np.ndarray]

    def where(self, keep: np.ndarray) -> Centres:
        """Those for which `keep` is true, in the order of the cells; cells that have none left are left out."""
        edges = np.cumsum([0, *(len(cell) for cell in self.cells)])
        kept = [cell[keep[start:end]] for cell, (start, end) in zip(self.cells, pairwise(edges), strict=True)]
        return Centres(self.mean, [cell for cell in kept if len(cell)])


def one_cluster(rows: np.ndarray) -> Clusters:
    """All of `rows` together: what comparing all with all takes."""
    return Clusters(np.array([0, len(rows)]), rows)


def learn_centres(vectors: np.ndarray, rows: np.ndarray) -> Centres:
    """Learns centres by k-means (faiss) on evenly spaced ones of `rows`.

    Args:
        vectors: floating [n, dim] of length 1.
        rows: int64, those that are to be put into clusters; more than `ROWS_PER_CLUSTER`.
    """
    clusters = math.ceil(len(rows) / ROWS_PER_CLUSTER)
    learned = min(len(rows), clusters * _LEARNED_FROM)
    sample = vectors[rows[np.linspace(0, len(rows) - 1, learned).astype(np.int64)]].astype(np.float32)
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    whole = _whole(sample - mean).numpy()
    cells = math.isqrt(clusters)
    home = np.argmax(whole @ _whole(_unit(_kmeans(whole, cells))).numpy().T, axis=1)
    within = [whole[home == cell] for cell in range(cells)]
    found = [_kmeans(part, math.ceil(clusters * len(part) / learned)) / _SCALE for part in within if len(part)]
    return Centres(mean, found)


def to_clusters(vectors: np.ndarray, rows: np.ndarray, centres: Centres, device: str) -> Clusters:
    """Puts each of `rows` into the `COPIES` clusters of the nearest directions, among the `_PROBED` nearest cells'."""
    directions = [_unit(cell) for cell in centres.cells]
    upper = _whole(_unit(np.stack([cell.mean(axis=0) for cell in directions]))).to(device)
    lower = [_whole(cell).to(device) for cell in directions]
    first = np.cumsum([0, *(len(cell) for cell in lower)])
    probed, copies = min(_PROBED, len(lower)), min(COPIES, int(first[-1]))
    found = np.empty((len(rows), copies), np.int32)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = _whole(vectors[rows[start : start + _BLOCK_ROWS]].astype(np.float32) - centres.mean).to(device)
        near = (block @ upper.T).topk(probed, dim=1).indices
        score = torch.full((len(block), probed, copies), -torch.inf, device=device)
        cluster = torch.full((len(block), probed, copies), -1, dtype=torch.int32, device=device)
        for cell, inside in enumerate(lower):
            row, rank = (near == cell).nonzero(as_tuple=True)
            best = (block[row] @ inside.T).topk(min(copies, len(inside)), dim=1)
            score[row, rank, : best.values.shape[1]] = best.values
            cluster[row, rank, : best.values.shape[1]] = (best.indices + int(first[cell])).int()
        place = score.flatten(1).topk(copies, dim=1).indices
        found[start : start + len(block)] = cluster.flatten(1).gather(1, place).cpu().numpy()
    # Rows ascend, so a stable sort leaves them ascending in each cluster; -1 is a place that no cluster filled.
    flat = found.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(first[-1] + 1))
    return Clusters(starts - starts[0], rows[order[starts[0] :] // copies])


def _kmeans(sample: np.ndarray, clusters: int) -> np.ndarray:
    """Means, float32 [clusters, dim]. `sample` holds whole numbers, and so do the means."""
    options = {"niter": _ROUNDS, "seed": 1, "int_centroids": True, "min_points_per_centroid": 1}
    means = faiss.Kmeans(sample.shape[1], min(clusters, len(sample)), max_points_per_centroid=256, **options)
    means.train(sample)
    return np.asarray(means.centroids)


def _whole(vectors: np.ndarray) -> torch.Tensor:
    """float32 of whole numbers."""
    return torch.from_numpy(vectors).mul(_SCALE).round_()


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
