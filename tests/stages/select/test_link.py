"""What is kept of paired rows, by each of the two rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.select.dedup.link import join, keepers, single, to_kept


def greedy(near: np.ndarray, distance: np.ndarray, settled: int = 0) -> list[int]:
    """`to_kept` said the plain way: in order, dropped if near a kept one; its keeper is the nearest."""
    keeper: list[int] = []
    for row in range(len(near)):
        kept = [other for other in range(row) if near[row, other] and keeper[other] < 0]
        keeper.append(min(kept, key=lambda other: (distance[row, other], other)) if kept and row >= settled else -1)
    return keeper


def chained(near: np.ndarray, settled: int = 0) -> list[int]:
    """`single` said the plain way: whatever is reached through pairs goes for the first of it."""
    near = near | near.T
    near[:settled, :settled] = False
    keeper = []
    for row in range(len(near)):
        reached = {row}
        while more := {other for one in reached for other in np.flatnonzero(near[one]).tolist()} - reached:
            reached |= more
        keeper.append(min(reached) if min(reached) != row and row >= settled else -1)
    return keeper


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 40), st.floats(0, 0.3), st.integers(0, 2**32), st.integers(0, 10))
def test_both_rules_are_the_plain_ones(count: int, share: float, seed: int, settled: int) -> None:
    rng = np.random.default_rng(seed)
    near = np.tril(rng.random((count, count)) < share, -1)
    distance = rng.integers(0, 3, (count, count))
    later, earlier = np.nonzero(near)
    pairs = (count, earlier, later, distance[later, earlier], settled)
    assert keepers("to_kept", *pairs).tolist() == greedy(near, distance, settled)
    assert keepers("single", *pairs).tolist() == chained(near, settled)


@pytest.mark.parametrize(("link", "kept"), [("to_kept", [-1, 0, -1, 2, -1]), ("single", [-1, 0, 0, 0, 0])])
def test_a_chain_loses_its_middle_or_all_but_its_best(link, kept) -> None:
    # 0-1-2-3-4, each near its neighbours only. By to_kept 1 goes for 0, 3 for 2, and 2 stays because 1 is gone.
    chain = np.arange(4)
    assert keepers(link, 5, chain, chain + 1, np.ones(4)).tolist() == kept


def test_settled_rows_stay_and_join_no_groups_by_themselves() -> None:
    # 0 and 1 are settled and near each other; 2 is near 1; 3 is near 2 alone.
    earlier, later = np.array([0, 1, 2]), np.array([1, 2, 3])
    assert to_kept(4, earlier, later, np.ones(3), settled=2).tolist() == [-1, -1, 1, -1]
    assert single(4, earlier, later, settled=2).tolist() == [-1, -1, 1, 1]


def test_groups_may_be_joined_bit_by_bit() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 1000, 700), rng.integers(0, 1000, 700)
    at_once = join(np.arange(1000), one, other)
    first = np.arange(1000)
    for start in range(0, 700, 90):
        first = join(first, one[start : start + 90], other[start : start + 90])
    assert first.tolist() == at_once.tolist()
    assert (at_once <= np.arange(1000)).all() and len(np.unique(at_once)) < 500
