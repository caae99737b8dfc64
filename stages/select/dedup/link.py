"""Which of paired rows are kept: a row is dropped only for one that is kept itself."""

from __future__ import annotations

import numpy as np


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
