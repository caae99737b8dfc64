"""Duplicates among rows in order of preference."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.select.dedup.exact import exact_duplicates
from stages.select.dedup.perceptual import hamming_pairs, perceptual_duplicates


def _near(hashes: np.ndarray, k: int) -> np.ndarray:
    return np.bitwise_count(hashes[:, None] ^ hashes) <= k


def _greedy(near: np.ndarray, distance: np.ndarray) -> list[int]:
    """The rule said the plain way: in order, dropped if near a kept one; its keeper is the nearest."""
    keeper = []
    for row in range(len(near)):
        kept = [other for other in range(row) if near[row, other] and keeper[other] < 0]
        keeper.append(min(kept, key=lambda other: (distance[row, other], other)) if kept else -1)
    return keeper


@st.composite
def _families(draw: st.DrawFn) -> np.ndarray:
    """Hashes in families that differ in few bits, some equal, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = rng.integers(0, 1 << 64, draw(st.integers(1, 6)), np.uint64)
    hashes = base[rng.integers(0, len(base), draw(st.integers(0, 60)))]
    for _ in range(draw(st.integers(0, 12))):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, len(hashes)).astype(np.uint64))
    return hashes


@settings(max_examples=60, deadline=None)
@given(_families(), st.integers(0, 16))
def test_hamming_pairs_are_all_and_only_those_near(hashes: np.ndarray, k: int) -> None:
    hashes = np.unique(hashes)
    left, right = hamming_pairs(hashes, k)
    expected = np.nonzero(np.triu(_near(hashes, k), 1))
    assert list(zip(left, right, strict=True)) == list(zip(*expected, strict=True))


def test_hamming_bands_that_need_flips_find_all_pairs_too() -> None:
    rng = np.random.default_rng(5)
    base = rng.integers(0, 1 << 64, 3000, np.uint64)
    # Low bits only: the bands are full of false neighbours, and pairs lie anywhere from 1 to 12 bits apart.
    hashes = np.unique(np.concatenate([base, base ^ np.uint64(0b1), base ^ rng.integers(0, 4096, 3000, np.uint64)]))
    for k in (1, 6, 10):
        left, right = hamming_pairs(hashes, k)
        expected = {(i, i + 1 + j) for i in range(len(hashes)) for j in np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= k)}  # fmt: skip # noqa: E501
        assert set(zip(left.tolist(), right.tolist(), strict=True)) == expected
        assert len(left) == len(expected)


@settings(max_examples=60, deadline=None)
@given(_families(), st.integers(0, 10))
def test_perceptual_dedup_is_the_plain_rule(hashes: np.ndarray, k: int) -> None:
    distance = np.bitwise_count(hashes[:, None] ^ hashes)
    assert perceptual_duplicates(hashes, k).tolist() == _greedy(distance <= k, distance)


def test_exact_dedup_keeps_the_first_of_each() -> None:
    assert exact_duplicates(np.array([7, 3, 7, 7, 3, 1])).tolist() == [-1, -1, 0, 0, 1, -1]
    assert exact_duplicates(np.array([], np.int64)).tolist() == []
