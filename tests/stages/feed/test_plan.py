"""The plan: exact, full, and a function of its arguments alone."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.llava_mix import llava_lengths, most_filled
from schemas.errors import InputError
from schemas.tables import LENGTHS, PLAN
from stages.feed.plan import fill_rate, plan_batches, plan_packs


def table(sizes, kinds=None, split="train", tiles=None):
    rows = [
        {"conversation_id": f"{n:06d}-0", "sample_id": f"{n:06d}", "kind": (kinds or ["detail"] * len(sizes))[n],
         "split": split, "part": 0, "length": size, "supervised": max(1, size // 3),
         "tiles": tiles[n] if tiles else None}
        for n, size in enumerate(sizes)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, LENGTHS)


def packs_of(plan):
    packs = {}
    for row in plan.to_pylist():
        packs.setdefault(row["pack"], []).append(row)
    return packs


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 64), min_size=1, max_size=80),
    epochs=st.integers(1, 3),
    window=st.integers(1, 40),
    most=st.integers(1, 6),
    seed=st.integers(0, 5),
)
def test_every_conversation_stands_once_in_every_epoch_and_no_pack_is_too_long(sizes, epochs, window, most, seed):
    lengths = table(sizes)
    plan = plan_packs(lengths, 64, seed, epochs, window, None, most)
    assert plan.schema == PLAN
    assert plan.equals(plan_packs(lengths, 64, seed, epochs, window, None, most))
    for epoch in range(epochs):
        ids = plan.filter(pc.equal(plan["epoch"], epoch))["conversation_id"].to_pylist()
        assert Counter(ids) == Counter(lengths["conversation_id"].to_pylist())
    packs = packs_of(plan)
    assert list(packs) == list(range(len(packs)))
    for rows in packs.values():
        assert sum(row["length"] for row in rows) <= 64
        assert len(rows) <= most
        assert len({row["epoch"] for row in rows}) == 1
        assert [row["position"] for row in rows] == list(range(len(rows)))


def test_llava_like_lengths_fill_at_least_98_percent():
    random = np.random.default_rng(0)
    # LLaVA's instruction mix behind a tower of 256 tokens: short answers, conversations, long descriptions.
    words = np.concatenate([random.gamma(2, 40, 4000), random.gamma(4, 60, 3000), random.normal(220, 60, 2000)])
    sizes = (256 + np.clip(words, 8, 1500)).astype(int).tolist()
    plan = plan_packs(table(sizes), 2048, seed=1)
    assert fill_rate(plan, 2048) >= 0.98


def test_lengths_like_llava_665k_fill_at_least_98_percent_or_nearly_what_whole_samples_can():
    lengths = llava_lengths(share=0.02)
    assert fill_rate(plan_packs(lengths, 4096, seed=1, pictures_per_pack=64), 4096) >= 0.98
    # With 576 tokens a picture most conversations are longer than a third of 2,048 positions and shorter than a half.
    most = most_filled(lengths["length"].to_numpy(), 2048)
    assert 0.97 * most <= fill_rate(plan_packs(lengths, 2048, seed=1, pictures_per_pack=64), 2048) <= most < 0.98


def test_seed_and_epoch_change_the_order():
    lengths = table([5] * 50)
    orders = [plan_packs(lengths, 5, seed, 1)["sample_id"].to_pylist() for seed in (1, 2)]
    assert orders[0] != orders[1]
    both = plan_packs(lengths, 5, 1, 2)["sample_id"].to_pylist()
    assert both[:50] != both[50:]


def test_a_fraction_of_an_epoch_takes_that_share():
    plan = plan_packs(table([5] * 40), 5, 0, 1.25)
    assert Counter(plan["epoch"].to_pylist()) == {0: 40, 1: 10}


def test_kinds_and_split_choose():
    lengths = pa.concat_tables([table([4, 4], ["detail", "count"]), table([4], split="val")])
    assert plan_packs(lengths, 16, 0, kinds=["count"])["source"].to_pylist() == ["count"]
    with pytest.raises(InputError, match="count, detail"):
        plan_packs(lengths, 16, 0, kinds=["poem"])


def test_a_conversation_longer_than_a_pack_is_refused():
    with pytest.raises(InputError, match="tokens_per_pack"):
        plan_packs(table([17]), 16, 0)


@settings(max_examples=30, deadline=None)
@given(number=st.integers(1, 60), batch=st.integers(2, 17), epochs=st.integers(1, 2))
def test_contrastive_batches_hold_distinct_samples_and_are_even(number, batch, epochs):
    plan = plan_batches(table([1] * number), batch, 3, epochs)
    sizes = {len(rows) for rows in packs_of(plan).values()}
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    for rows in packs_of(plan).values():
        assert len({row["sample_id"] for row in rows}) == len(rows)
    for epoch in range(epochs):
        assert len(set(plan.filter(pc.equal(plan["epoch"], epoch))["sample_id"].to_pylist())) == number


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 13)), min_size=1, max_size=120), st.integers(1, 20))
def test_tiles_in_a_pack_are_bounded(rows, most):
    sizes, tiles = zip(*rows, strict=True)
    plan = plan_packs(table(sizes, tiles=tiles), 64, 0, pictures_per_pack=most).to_pylist()
    assert sorted(int(row["sample_id"]) for row in plan) == list(range(len(rows)))
    shown = Counter()
    for row in plan:
        shown[row["pack"]] += max(1, tiles[int(row["sample_id"])])
    alone = {pack for pack, number in Counter(row["pack"] for row in plan).items() if number == 1}
    assert all(number <= most for pack, number in shown.items() if pack not in alone)
