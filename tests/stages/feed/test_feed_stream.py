"""A plan that grows, and its batches: the same whatever came when, and no more in memory than was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import models.compat  # noqa: F401

# isort: split
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.tables import LENGTHS, PLAN
from stages.feed import PackReader
from stages.feed.batches import PiecePlan
from stages.feed.stream_batches import BatchMaker, GrowingPieces, ahead_of
from stages.feed.stream_plan import StreamPlanWork, grow_plan, stream_file, write_stream_plan
from stages.ledger import write_ledger
from stages.train.settings import TrainStep
from tests.stages.feed.test_plan import packs_of, table
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

STEP = TrainStep(name="align", learn={"connector": 1e-3}, packs_per_step=2)


def _grown(parts: list[pa.Table], seed: int = 0, most: int = 64) -> list[pa.Table]:
    """What each part adds to the plan, numbered on."""
    left, plans, begin = LENGTHS.empty_table(), [], 0
    for number, fresh in enumerate(parts):
        plan, left = grow_plan(left, fresh, 64, most, seed, number, last=number == len(parts) - 1)
        plans.append(plan.set_column(0, "pack", pa.array(plan["pack"].to_numpy() + begin, pa.int64())))
        begin += len(set(plan["pack"].to_pylist()))
    assert not len(left)
    return plans


def _parts(sizes: list[list[int]]) -> list[pa.Table]:
    whole = table([size for part in sizes for size in part])
    edges = np.cumsum([0, *(len(part) for part in sizes)])
    parts = [whole.slice(begin, end - begin) for begin, end in zip(edges[:-1], edges[1:], strict=True)]
    return [part.set_column(4, "part", pa.array([number] * len(part), pa.int32())) for number, part in enumerate(parts)]


SIZES = st.lists(st.lists(st.integers(1, 64), max_size=120), min_size=1, max_size=5).filter(any)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 3), most=st.integers(1, 8))
def test_every_conversation_is_packed_once_and_a_begin_stays_as_more_parts_come(sizes, seed, most):
    parts = _parts(sizes)
    plans = _grown(parts, seed, most)
    whole = pa.concat_tables(plans)
    assert Counter(whole["conversation_id"].to_pylist()) == Counter(
        i for p in parts for i in p["conversation_id"].to_pylist()
    )
    assert whole.select(PLAN.names).schema.equals(PLAN)
    packs = packs_of(whole)
    assert list(packs) == list(range(len(packs)))
    for rows in packs.values():
        assert sum(row["length"] for row in rows) <= 64 and len(rows) <= most
        assert all(row["conversation_id"] in parts[row["part"]]["conversation_id"].to_pylist() for row in rows)
    more = _grown([*parts, table([64] * 3)], seed, most)
    assert all(one.equals(other) for one, other in zip(plans[:-1], more, strict=False))


def test_parts_are_packed_as_full_as_a_plan_of_all():
    random = np.random.default_rng(0)
    plans = _grown(_parts([random.integers(4, 30, 400).tolist() for _ in range(4)]))
    packs = packs_of(pa.concat_tables(plans))
    assert sum(row["length"] for rows in packs.values() for row in rows) / (64 * len(packs)) > 0.99


def _coming(plans: list[pa.Table], late: list[bool]) -> Callable[[bool], pa.Table | None]:
    """Gives the plans one after the other; who does not wait gets none where it is late."""
    left, delays = iter(plans), iter(late)
    return lambda wait: None if not wait and next(delays, True) else next(left, None)


CUTS = st.sampled_from([(2, 1, 1), (2, 1, 2), (4, 2, 1), (4, 2, 2)])


@settings(max_examples=40, deadline=None)
@given(SIZES, CUTS, st.none() | st.integers(1, 6), st.integers(0, 3), st.lists(st.booleans(), max_size=10))
def test_growing_pieces_are_those_of_the_whole_plan(sizes, cut, most, begin, late):
    plans = _grown(_parts(sizes))
    per_step, accumulation, world = cut
    for rank in range(world):
        whole = PiecePlan(pa.concat_tables(plans), per_step, accumulation, rank, world, most)
        pieces = GrowingPieces(_coming(plans, late), per_step, accumulation, rank, world, most, begin)
        found = []
        while (piece := pieces.next(False) or pieces.next(True)) is not None:
            found.append(piece)
        assert found == list(whole.pieces(begin))


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_asked_for_than_ahead_and_ready_batches_are_not_kept_waiting(ahead):
    pieces, asked, most = list(range(10)), 0, 0
    blocked = []

    def following(wait: bool) -> int | None:
        if len(pieces) == 5 and not wait and not blocked:
            blocked.append(asked)  # the plan has not grown yet
            return None
        return pieces.pop(0) if pieces else None

    def submit(piece: int) -> int:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        return piece

    def fetch(piece: int) -> int:
        nonlocal asked
        asked -= 1
        return piece

    assert list(ahead_of(following, submit, fetch, ahead)) == list(range(10))
    assert most == ahead and len(blocked) == (1 if ahead > 1 else 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("tokenizer"))


def _planned(run, step=STEP, feed=FEED):
    work = StreamPlanWork(run, step, feed, seed=1)
    for part in run.parts():
        work.process(part)
    return write_stream_plan(run, step, feed)


def test_batches_of_parts_in_memory_are_those_of_the_shards(tmp_path, model):
    run = make_run(tmp_path, parts=3)
    feed_all(run, model)
    step = STEP.model_copy(update={"epochs": 2})
    counts = _planned(run, step)
    whole = pq.read_table(run.path("plan/align.parquet"))
    parts = [pq.read_table(run.path(stream_file("align", part))) for part in run.parts()]
    assert pa.concat_tables(parts).select(PLAN.names).equals(whole) and set(whole["epoch"].to_pylist()) == {0, 1}
    assert counts["packs"] == whole["pack"][-1].as_py() + 1 and counts["conversations"] == len(whole)

    maker, coming = BatchMaker(run, FEED, model), iter(parts)
    pieces = GrowingPieces(lambda wait: next(coming, None), 2)
    collate = maker._collate(PackReader(run, ["train"]))
    for piece in PiecePlan(whole, 2).pieces():
        expected, made = collate(piece), maker.make(pieces.next(True))
        assert made.samples == expected.samples and made.packs == expected.packs
        for name in ("input_ids", "labels", "position_ids", "pixel_values"):
            assert torch.equal(getattr(made, name), getattr(expected, name))


def test_a_killed_stream_goes_on_with_the_same_plan_and_a_changed_part_replans_what_follows(tmp_path, model):
    run = make_run(tmp_path, parts=3)
    feed_all(run, model)
    _planned(run)
    work = StreamPlanWork(run, STEP, FEED, seed=1)
    before = {path: path.read_bytes() for path in run.path("plan").rglob("*.parquet")}
    run.path("manifests/plan/align/00001.json").unlink()
    assert [work.done(part) for part in run.parts()] == [True, False, False]
    _planned(run)
    assert {path: path.read_bytes() for path in before} == before
    lengths = run.read_table("lengths", [0])
    run.commit("feed", 0, "other", {"lengths/00000.parquet": lengths.slice(0, 4)}, {})
    for part in run.parts():
        assert not work.done(part)
        work.process(part)


def test_a_stream_without_shards_holds_out_what_it_must_and_keeps_the_law(tmp_path, model):
    run = make_run(tmp_path, parts=2)
    feed = FEED.model_copy(update={"shards": False})
    feed_all(run, model, feed)
    assert not list(run.path("shards").glob("train-*"))
    assert len(PackReader(run, ["val"])) == 4
    assert write_ledger(run)["kept"] == 22
    ledger = run.read_table("ledger").to_pylist()
    assert all((row["shard"] is None) == (row["split"] != "val") for row in ledger)
    _planned(run, feed=feed)
    part = pq.read_table(run.path(stream_file("align", 1)))
    batch = BatchMaker(run, feed, model).make(next(iter(PiecePlan(part, 2).pieces())))
    assert len(batch.samples) == sum(pack in batch.packs for pack in part["pack"].to_pylist())


def test_a_stream_in_which_nothing_comes_to_train_on_says_so(tmp_path, model):
    run = make_run(tmp_path)
    feed_all(run, model)
    with pytest.raises(
        InputError, match="no training conversation of the kinds poem is in the shards; there are detail"
    ):
        _planned(run, STEP.model_copy(update={"kinds": ["poem"]}))
