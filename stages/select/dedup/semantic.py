"""Duplicates by CLIP vector: nearly the same content."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from models.compat import use_cores
from stages.select.dedup.clusters import Clusters, learn_centres, one_cluster, to_clusters
from stages.select.dedup.link import Link, join, to_kept

#: Up to this many samples every vector is compared with every other; beyond it only within its clusters.
FLAT_LIMIT = 50_000
#: Pairs that are held at once.
PAIRS_AT_ONCE = 1 << 23
_BLOCK = (512, 16_384)
_ROWS_AT_ONCE = 65_536
#: A candidate's cosine comes of products in bfloat16; what is below the threshold by more than their error is none.
_SLACK = 0.01
#: By so much a float32 cosine of equal vectors may be off.
_ROUNDING = 1e-6

Pairs = tuple[np.ndarray, np.ndarray]


def semantic_duplicates(vectors: np.ndarray, min_cosine: float, link: Link = "to_kept", settled: int = 0) -> np.ndarray:
    """For each row the place of the row that is kept in its stead; -1 where the row itself is kept.

    Two rows are near each other if their cosine is at least `min_cosine`, computed in float32. Up to `FLAT_LIMIT` rows,
    and where few rows come to many settled ones, each is compared with each. Beyond, it is compared within overlapping
    k-means clusters (SemDeDup, Abbas et al. 2023, section 3; see `stages.select.dedup.clusters`), and a pair that
    shares no cluster is missed. The result
    depends on the rows in their order alone. Runs on the GPU where torch has one.

    Args:
        vectors: floating [n, dim] of length 1, in order of preference. A row that is zero or not finite is near none.
        min_cosine: over 0.
        link: `to_kept`: a row is dropped if it is near a kept row before it, for the nearest of those. `single`: rows
            that a chain of near ones joins are a group, of which the first is kept.
        settled: the first so many rows are kept whatever they are near to.

    Returns:
        int64 [n].
    """
    use_cores()
    places = np.arange(len(vectors))
    # By `single` a row may join what is near it to a settled row, so that such a row must not stand for it.
    first, length = _look_over(vectors, settled if link == "single" else 0)
    # Rows with one vector have the same neighbours, so the first of them stands for all.
    stands = (first == places) & (length > 0)
    near = _Near(vectors, length, min_cosine, _clusters(vectors, np.flatnonzero(stands), min_cosine, settled))
    if link == "single":
        found = _single(near, stands, settled)
    else:
        found = _to_kept(near, stands, settled)
    keeper = np.where(found < 0, places, found)[first]
    return np.where((keeper == places) | (places < settled), -1, keeper)


def near_first(vectors: np.ndarray, min_cosine: float, first: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row that is near one of the first rows, the nearest of them. Each is compared with each.

    Args:
        vectors, min_cosine: as in `semantic_duplicates`.
        first: so many rows are looked for among the others.

    Returns:
        (earlier, later, cosine), by `later`: places among the first rows and after them, int64, and float32.
    """
    use_cores()
    _, length = _look_over(vectors, 0)
    ahead = np.arange(len(vectors)) < first
    near = _Near(vectors, length, min_cosine, one_cluster(np.flatnonzero(length > 0)))
    keeper, best = np.full(len(vectors), -1, np.int64), np.full(len(vectors), -np.inf, np.float32)
    for earlier, later in near.candidates(~ahead, ahead):
        _take_nearest(keeper, best, *near.measure(earlier, later))
    later = np.flatnonzero(keeper >= 0)
    return keeper[later], later, best[later]


class _Near:
    """Finds near rows that share a cluster.

    Args:
        length: float32 [n], of each vector.
    """

    def __init__(self, vectors: np.ndarray, length: np.ndarray, min_cosine: float, clusters: Clusters) -> None:
        self.count = len(vectors)
        self._vectors, self._length, self._min_cosine, self._clusters = vectors, length, min_cosine, clusters
        self._device = _device()
        self._source = torch.from_numpy(vectors)
        fast = self._device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._type = torch.bfloat16 if fast else torch.float32

    def candidates(self, left: np.ndarray, right: np.ndarray, group: np.ndarray | None = None) -> Iterator[Pairs]:
        """Pairs (earlier, later) that may be near, the later one of `left`, the earlier of `right`; some repeatedly.

        Args:
            left, right: bool [n]; either the same, or without a row in common.
            group: int64 [n]; pairs within one group are left out. It may change while pairs are asked for.
        """
        same = left is right
        for lefts, rights in zip(self._clusters.of(left), self._clusters.of(right), strict=True):
            if not len(lefts) or not len(rights) or rights[0] >= lefts[-1]:
                continue
            wide = self._load(rights)
            for top in range(0, len(lefts), _BLOCK[0]):
                block = wide[top : top + _BLOCK[0]] if same else self._load(lefts[top : top + _BLOCK[0]])
                end = int(np.searchsorted(rights, lefts[top + len(block) - 1]))
                for begin in range(0, end, _BLOCK[1]):
                    cosine = block @ wide[begin : min(begin + _BLOCK[1], end)].T
                    if same:
                        _clear(cosine, top - begin)
                    later, earlier = lefts[top : top + len(block)], rights[begin : begin + cosine.shape[1]]
                    known = None if group is None else (group[later], group[earlier])
                    rows, columns = _at_least(cosine, self._min_cosine - _SLACK, known)
                    later, earlier = later[rows], earlier[columns]
                    ahead = earlier < later
                    if ahead.any():
                        yield earlier[ahead], later[ahead]

    def measure(self, earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of candidates those that are near, with their cosine, float32."""
        cosine = np.empty(len(earlier), np.float32)
        for start in range(0, len(earlier), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            one, other = (self._vectors[rows[part]].astype(np.float32) for rows in (earlier, later))
            cosine[part] = np.einsum("nd,nd->n", one, other) / (self._length[earlier[part]] * self._length[later[part]])
        near = cosine >= np.float32(self._min_cosine - _ROUNDING)
        return earlier[near], later[near], cosine[near]

    def _load(self, rows: np.ndarray) -> torch.Tensor:
        return self._source[torch.from_numpy(rows)].to(self._device).to(self._type)


def _to_kept(near: _Near, stands: np.ndarray, settled: int) -> np.ndarray:
    """See `link.to_kept`. Goes through the rows from the best on in spans, and halves a span that holds too many pairs.

    Rows of a span that are near a row kept before it are dropped, and need not be compared with each other: so many
    vectors that are all alike make few pairs.
    """
    keeper = np.full(near.count, -1, np.int64)
    best = np.full(near.count, -np.inf, np.float32)
    kept = stands & (np.arange(near.count) < settled)
    spans = [(settled, near.count)]
    while spans:
        start, end = spans.pop()
        span = np.zeros(near.count, bool)
        span[start:end] = stands[start:end]
        for earlier, later in near.candidates(span, kept):
            _take_nearest(keeper, best, *near.measure(earlier, later))
        fresh = span & (keeper < 0)
        pairs = _all_pairs(near, fresh, PAIRS_AT_ONCE if end - start > 1 else None)
        if pairs is None:
            middle = (start + end) // 2
            spans += [(middle, end), (start, middle)]
            continue
        earlier, later, cosine = near.measure(*pairs)
        found = to_kept(near.count, earlier, later, -cosine)
        keeper[found >= 0] = found[found >= 0]
        now_kept = fresh & (found < 0)
        for earlier, later in near.candidates(span & ~fresh, now_kept):
            _take_nearest(keeper, best, *near.measure(earlier, later))
        kept |= now_kept
    return keeper


def _single(near: _Near, stands: np.ndarray, settled: int) -> np.ndarray:
    """See `link.single`. Pairs are forgotten as soon as they have joined their groups."""
    first = np.arange(near.count)
    fresh = stands & (first >= settled)
    waiting: list[Pairs] = []

    def join_waiting() -> None:
        earlier, later = (np.concatenate(ends) for ends in zip(*waiting, strict=True))
        waiting.clear()
        while len(later):
            # Of a row's candidates one is measured at a time: in a crowd it makes the others needless.
            head = np.append(True, later[1:] != later[:-1])
            one, other, _ = near.measure(earlier[head], later[head])
            first[:] = join(first, one, other)
            rest = ~head & (first[earlier] != first[later])
            earlier, later = earlier[rest], later[rest]

    for right in (fresh, stands & ~fresh):
        for pairs in near.candidates(fresh, right, first):
            waiting.append(pairs)
            if sum(len(earlier) for earlier, _ in waiting) >= _ROWS_AT_ONCE:
                join_waiting()
    if waiting:
        join_waiting()
    return np.where(first == np.arange(near.count), -1, first)


def _all_pairs(near: _Near, rows: np.ndarray, limit: int | None) -> Pairs | None:
    """Candidates among `rows`, each once; None where more than `limit` come."""
    found = [np.empty(0, np.int64)]
    number = 0
    for earlier, later in near.candidates(rows, rows):
        found.append(later * near.count + earlier)
        number += len(earlier)
        if limit is not None and number > limit:
            return None
    later, earlier = np.divmod(np.unique(np.concatenate(found)), max(near.count, 1))
    return earlier, later


def _take_nearest(
    keeper: np.ndarray, best: np.ndarray, earlier: np.ndarray, later: np.ndarray, cosine: np.ndarray
) -> None:
    """Notes each later row's nearest earlier one, if it is nearer than the one noted; of equally near, the first."""
    order = np.lexsort((earlier, -cosine, later))
    rows, place = np.unique(later[order], return_index=True)
    earlier, cosine = earlier[order][place], cosine[order][place]
    nearer = (cosine > best[rows]) | ((cosine == best[rows]) & (earlier < keeper[rows]))
    keeper[rows[nearer]], best[rows[nearer]] = earlier[nearer], cosine[nearer]


def _clusters(vectors: np.ndarray, rows: np.ndarray, min_cosine: float, settled: int) -> Clusters:
    compared = len(rows) - int(np.searchsorted(rows, settled))
    if len(rows) * compared <= FLAT_LIMIT**2:
        return one_cluster(rows)
    centres = learn_centres(vectors, rows)
    # Centres as near each other as duplicates would cut a crowd of duplicates to pieces.
    whole = np.concatenate(centres.cells) + centres.mean
    lone = semantic_duplicates(whole, min_cosine) < 0
    return to_clusters(vectors, rows, centres.where(lone), _device())


def _look_over(vectors: np.ndarray, apart: int) -> tuple[np.ndarray, np.ndarray]:
    """For each row the first row with the very same vector, and the vector's length (0 where it is not finite).

    Args:
        apart: the first so many rows are held to be like none after them.
    """
    count, dim = vectors.shape
    words = np.dtype(f"u{vectors.dtype.itemsize}")
    factors = np.random.default_rng(0).integers(0, 1 << 64, dim, np.uint64) | np.uint64(1)
    code, length = np.empty(count, np.uint64), np.empty(count, np.float32)
    for start in range(0, count, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        block = np.ascontiguousarray(vectors[part])
        code[part] = block.view(words).astype(np.uint64) @ factors
        exact = block.astype(np.float32)
        length[part] = np.sqrt(np.einsum("nd,nd->n", exact, exact))
    code[:apart] += np.uint64(1)
    _, found, group = np.unique(code, return_index=True, return_inverse=True)
    first, places = found[group], np.arange(count)
    again = np.flatnonzero(first != places)
    for start in range(0, len(again), _ROWS_AT_ONCE):
        rows = again[start : start + _ROWS_AT_ONCE]
        differs = (vectors[rows] != vectors[first[rows]]).any(axis=1)
        first[rows[differs]] = rows[differs]
    length[~np.isfinite(length)] = 0
    first[length == 0] = places[length == 0]
    return first, length


def _clear(cosine: torch.Tensor, offset: int) -> None:
    """Zeroes each row's cosine with itself, which lies `offset` columns beyond the diagonal."""
    cosine.diagonal(offset).zero_() if -cosine.shape[0] < offset < cosine.shape[1] else None


def _at_least(cosine: torch.Tensor, least: float, groups: Pairs | None) -> Pairs:
    """Places in `cosine` that reach `least`; most rows have none, and are passed over at once.

    Args:
        groups: of the rows and of the columns; places where they are the same are left out.
    """
    rows = (cosine.amax(dim=1) >= least).nonzero().flatten()
    near = cosine[rows] >= least
    if groups is not None and len(rows):
        down, across = (torch.from_numpy(group).to(cosine.device) for group in groups)
        near &= down[rows][:, None] != across
    among, columns = near.nonzero(as_tuple=True)
    return rows[among].cpu().numpy(), columns.cpu().numpy()


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
