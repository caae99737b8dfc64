"""Duplicates among rows in order of preference."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.select.dedup import semantic
from stages.select.dedup.exact import exact_duplicates
from stages.select.dedup.link import to_kept
from stages.select.dedup.perceptual import hamming_pairs, perceptual_duplicates
from stages.select.dedup.semantic import semantic_duplicates


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


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32))
def test_to_kept_is_the_plain_rule(count: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    near = np.tril(rng.random((count, count)) < share, -1)
    distance = rng.integers(0, 3, (count, count))
    later, earlier = np.nonzero(near)
    assert to_kept(count, earlier, later, distance[later, earlier]).tolist() == _greedy(near, distance)


def test_a_chain_loses_its_middle_alone() -> None:
    # 0-1-2-3-4, each near its neighbours only: 1 goes for 0, 3 for 2, and 2 stays because 1 is gone.
    chain = np.arange(4)
    assert to_kept(5, chain, chain + 1, np.ones(4)).tolist() == [-1, 0, -1, 2, -1]


def test_exact_dedup_keeps_the_first_of_each() -> None:
    assert exact_duplicates(np.array([7, 3, 7, 7, 3, 1])).tolist() == [-1, -1, 0, 0, 1, -1]
    assert exact_duplicates(np.array([], np.int64)).tolist() == []


def _clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Vectors of length 1 around fewer centres, with cosines on both sides of 0.9."""
    centres = rng.normal(size=(max(count // 4, 1), 24))
    vectors = centres[rng.integers(0, len(centres), count)] + rng.normal(size=(count, 24)) * rng.choice([0.1, 0.3])
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 80), st.integers(0, 2**32), st.integers(1, 30))
def test_semantic_dedup_is_the_plain_rule_for_any_block(count: int, seed: int, block: int) -> None:
    vectors = _clusters(np.random.default_rng(seed), count)
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    original, semantic._BLOCK_ROWS = semantic._BLOCK_ROWS, block
    try:
        assert semantic_duplicates(vectors, 0.9).tolist() == _greedy(cosine >= 0.9, -cosine)
    finally:
        semantic._BLOCK_ROWS = original


def test_clusters_find_nearly_all_that_comparing_all_finds(monkeypatch) -> None:
    vectors = _clusters(np.random.default_rng(0), 3000)
    exact = semantic_duplicates(vectors, 0.95)
    monkeypatch.setattr(semantic, "FLAT_LIMIT", 1000)
    clustered = semantic_duplicates(vectors, 0.95)
    np.testing.assert_array_equal(clustered, semantic_duplicates(vectors, 0.95))
    assert (exact >= 0).sum() > 500
    assert ((clustered >= 0) == (exact >= 0)).mean() > 0.99
