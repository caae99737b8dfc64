"""Duplicates by vector: the plain rule, whatever the blocks; clusters; crowds; vectors that are none."""

import os
from functools import partial

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.compat import use_cores
from stages.select.dedup import clusters, semantic
from stages.select.dedup.semantic import semantic_duplicates
from tests.stages.select.test_link import chained, greedy


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _families(rng: np.random.Generator, count: int, dim: int = 24) -> np.ndarray:
    """Vectors of length 1 around fewer centres, with cosines on both sides of 0.9, some of them equal."""
    centres = rng.normal(size=(max(count // 4, 1), dim))
    vectors = centres[rng.integers(0, len(centres), count)] + rng.normal(size=(count, dim)) * rng.choice([0.1, 0.3])
    same = rng.random(count) < 0.1
    vectors[same] = vectors[rng.integers(0, max(count, 1), same.sum())]
    return _unit(vectors).astype(np.float16)


def _cosine(vectors: np.ndarray) -> np.ndarray:
    exact = _unit(vectors.astype(np.float64))
    return exact @ exact.T


def _planted(rng: np.random.Generator, count: int, pairs: int, cosine: float, dim: int = 128) -> np.ndarray:
    """Vectors without any structure; the last `pairs` are near copies of the first, by exactly `cosine`."""
    base = _unit(rng.normal(size=(count - pairs, dim)))
    aside = rng.normal(size=(pairs, dim))
    aside -= (aside * base[:pairs]).sum(axis=1, keepdims=True) * base[:pairs]
    return np.concatenate([base, cosine * base[:pairs] + np.sqrt(1 - cosine**2) * _unit(aside)]).astype(np.float16)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 2**32), st.integers(3, 30), st.integers(1, 200), st.integers(0, 20))
def test_the_rule_is_the_plain_one_for_any_blocks(count, seed, block, most_pairs, settled) -> None:
    vectors = _families(np.random.default_rng(seed), count)
    cosine = _cosine(vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(semantic, "_BLOCK", (block, 2 * block))
        patch.setattr(semantic, "PAIRS_AT_ONCE", most_pairs)
        patch.setattr(semantic, "_ROWS_AT_ONCE", block)
        to_kept = semantic_duplicates(vectors, 0.9, settled=settled)
        single = semantic_duplicates(vectors, 0.9, "single", settled)
    # The nearest of equally near ones is the first; float64 tells apart what float32 does not.
    assert to_kept.tolist() == greedy(cosine >= 0.9, np.round(-cosine, 6), settled)
    assert single.tolist() == chained(cosine >= 0.9, settled)


def test_clusters_find_nearly_all_that_comparing_all_finds(monkeypatch) -> None:
    for vectors, least in [
        (_families(np.random.default_rng(0), 6000), 0.999),
        (_planted(np.random.default_rng(1), 12_000, 1200, 0.96), 0.99),
    ]:
        exact = semantic_duplicates(vectors, 0.95)
        monkeypatch.setattr(semantic, "FLAT_LIMIT", 1000)
        clustered = semantic_duplicates(vectors, 0.95)
        monkeypatch.undo()
        assert (exact >= 0).sum() > 900
        assert ((clustered >= 0) & (exact >= 0)).sum() >= least * (exact >= 0).sum()


def test_every_row_stands_in_its_nearest_clusters() -> None:
    rng = np.random.default_rng(2)
    vectors = _planted(rng, 5000, 10, 0.9)
    rows = np.flatnonzero(rng.random(5000) < 0.8)
    centres = clusters.learn_centres(vectors, rows)
    found = clusters.to_clusters(vectors, rows, centres, "cpu")
    assert np.bincount(found.members, minlength=5000)[rows].tolist() == [min(5, sum(map(len, centres.cells)))] * len(
        rows
    )
    score = (vectors.astype(np.float32) - centres.mean) @ _unit(np.concatenate(centres.cells)).T
    nearest = score.argmax(axis=1)
    inside = [set(members.tolist()) for members in found]
    assert np.mean([row in inside[nearest[row]] for row in rows]) > 0.99
    chosen = rng.random(5000) < 0.3
    for some, all_of_it in zip(found.of(chosen), found, strict=True):
        assert some.tolist() == all_of_it[chosen[all_of_it]].tolist() == sorted(some.tolist())


@pytest.mark.parametrize("link", ["to_kept", "single"])
def test_a_crowd_of_near_alike_vectors_makes_few_pairs(monkeypatch, link) -> None:
    rng = np.random.default_rng(3)
    crowd = _unit(np.ones(32) + rng.normal(size=(4000, 32)) * 0.02)
    vectors = np.concatenate([_unit(rng.normal(size=(2000, 32))), crowd]).astype(np.float16)
    monkeypatch.setattr(semantic, "FLAT_LIMIT", 1000)
    monkeypatch.setattr(semantic, "PAIRS_AT_ONCE", 50_000)
    measured = 0
    measure = semantic._Near.measure

    def counting(self, earlier, later):
        nonlocal measured
        measured += len(earlier)
        return measure(self, earlier, later)

    monkeypatch.setattr(semantic._Near, "measure", counting)
    keeper = semantic_duplicates(vectors, 0.95, link)
    assert set(keeper[2001:].tolist()) == {2000}
    assert keeper[2000] == -1
    assert measured < 200_000  # of 8 million


@pytest.mark.parametrize("link", ["to_kept", "single"])
def test_equal_vectors_go_for_the_first(monkeypatch, link) -> None:
    monkeypatch.setattr(semantic, "FLAT_LIMIT", 1000)
    vectors = np.tile(_unit(np.ones(16)), (100_000, 1)).astype(np.float16)
    assert semantic_duplicates(vectors, 0.95, link).tolist() == [-1] + [0] * 99_999
    assert semantic_duplicates(vectors[:10], 0.95, link, settled=3).tolist() == [-1] * 3 + [0] * 7


@pytest.mark.parametrize("link", ["to_kept", "single"])
def test_bad_vectors_are_near_none(link) -> None:
    good = _unit(np.arange(1.0, 17)).astype(np.float16)
    zero, nan, infinite = (np.full(16, value, np.float16) for value in (0, np.nan, np.inf))
    vectors = np.stack([zero, good, nan, zero, good, infinite, nan])
    assert semantic_duplicates(vectors, 0.9, link)[[1, 2, 4, 5]].tolist() == [-1, -1, 1, -1]
    assert (semantic_duplicates(np.stack([zero, zero, nan, nan]), 0.9, link) == -1).all()


@pytest.mark.parametrize("link", ["to_kept", "single"])
def test_none_and_one(link) -> None:
    assert semantic_duplicates(np.empty((0, 16), np.float16), 0.9, link).tolist() == []
    assert semantic_duplicates(np.eye(1, 16, dtype=np.float16), 0.9, link).tolist() == [-1]


def test_what_is_found_does_not_hang_on_the_number_of_threads(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(900, 64))[rng.integers(0, 900, 12_000)] + 0.35 * rng.normal(size=(12_000, 64))
    vectors = _unit(vectors).astype(np.float16)
    monkeypatch.setattr(semantic, "FLAT_LIMIT", 1000)
    found = []
    try:
        for threads in (1, 3):
            monkeypatch.setattr(semantic, "use_cores", partial(torch.set_num_threads, threads))
            faiss.omp_set_num_threads(threads)
            found.append(semantic_duplicates(vectors, 0.92))
    finally:
        faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
        use_cores()
    assert found[0].tolist() == found[1].tolist()
    assert (found[0] >= 0).sum() > 500


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same(monkeypatch) -> None:
    vectors = _planted(np.random.default_rng(4), 60_000, 3000, 0.96)
    there = semantic_duplicates(vectors, 0.95)
    monkeypatch.setattr(semantic, "_device", lambda: "cpu")
    assert ((there >= 0) == (semantic_duplicates(vectors, 0.95) >= 0)).mean() > 0.999
