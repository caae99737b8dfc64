"""Which of paired rows are kept. Rows stand in order of preference, so that of any group the first is the best."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: `to_kept` drops what is near a kept row; `single` keeps one row of each chain of pairs.
Link = Literal["to_kept", "single"]


def keepers(
    link: Link, count: int, earlier: np.ndarray, later: np.ndarray, distance: np.ndarray, settled: int = 0
) -> np.ndarray:
    """For each row the place of the row that is kept in its stead; -1 where the row itself is kept.

    Args:
        count: number of rows.
        earlier, later: places of the two rows of each pair, `earlier < later`.
        distance: of each pair; `single` does not ask for it.
        settled: the first so many rows are kept whatever they are near to.

    Returns:
        int64 [count].
    """
    if link == "single":
        return single(count, earlier, later, settled)
    return to_kept(count, earlier, later, distance, settled)


def to_kept(count: int, earlier: np.ndarray, later: np.ndarray, distance: np.ndarray, settled: int = 0) -> np.ndarray:
    """For each row the nearest kept row before it that it is paired with; -1 where the row itself is kept.

    A row is dropped if, and only if, it is paired with a kept row before it. See `keepers` for the arguments; of two
    equally near, the one that comes first is taken.
    """
    undecided, kept, dropped = 0, 1, 2
    open_pairs = later >= settled
    earlier, later, distance = earlier[open_pairs], later[open_pairs], distance[open_pairs]
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


def single(count: int, earlier: np.ndarray, later: np.ndarray, settled: int = 0) -> np.ndarray:
    """For each row the first row of its group; -1 where the row itself is that. See `keepers` for the arguments.

    Rows that are paired, or that a chain of pairs joins, are one group. Pairs of two settled rows join nothing.
    """
    open_pairs = later >= settled
    first = join(np.arange(count), earlier[open_pairs], later[open_pairs])
    return np.where((first == np.arange(count)) | (np.arange(count) < settled), -1, first)


def join(first: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The first row of each row's group after further pairs were found.

    Args:
        first: int64 [n], the same for all rows of a group so far.
        one, other: places of the two rows of each pair.
    """
    groups, ends = np.unique(np.concatenate([first[one], first[other]]), return_inverse=True)
    ends = ends.reshape(2, -1)
    links = coo_array((np.ones(ends.shape[1], bool), (ends[0], ends[1])), shape=(len(groups), len(groups)))
    number, component = connected_components(links, directed=False)
    lowest = np.full(number, len(first), np.int64)
    np.minimum.at(lowest, component, groups)
    moved = np.arange(len(first))
    moved[groups] = lowest[component]
    return moved[first]
