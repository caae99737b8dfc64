"""Mixtures: each share of the tokens holds after every pack; what runs out is repeated or ends, and is told."""

import logging
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.llava_mix import llava_lengths
from schemas.errors import InputError
from schemas.tables import LENGTHS, PLAN
from stages.feed import FeedSettings, write_plan
from stages.feed.mixture import mix_packs
from stages.feed.plan import fill_rate, plan_mixture, ran_out
from stages.run_folder import RunFolder
from stages.store import read_parquet
from stages.train.settings import TrainStep
from stages.train.validation import held_out_pieces

ROOM = 64


def step(mixture, **more):
    return TrainStep(name="mix", learn={"connector": 1e-3}, mixture=mixture, **more)


def lengths_of(**kinds):
    """Kind -> lengths; those of `talk` are about no picture."""
    rows = [
        {"conversation_id": f"{kind}{n}", "sample_id": f"{kind}{n}", "kind": "source" if kind == "talk" else kind,
         "split": "train", "part": 0, "length": size, "supervised": 1, "text_only": kind == "talk"}
        for kind, sizes in kinds.items()
        for n, size in enumerate(sizes)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, LENGTHS)


@st.composite
def components(draw):
    """Lengths of each component, and weights."""
    number = draw(st.integers(2, 5))
    ranges = [sorted(draw(st.tuples(st.integers(1, ROOM), st.integers(1, ROOM)))) for _ in range(number)]
    sizes = [draw(st.lists(st.integers(*bounds), min_size=1, max_size=30)) for bounds in ranges]
    return sizes, [draw(st.integers(1, 60)) for _ in range(number)]


@settings(max_examples=80, deadline=None)
@given(components(), st.integers(1, 60), st.sampled_from([3, 8, 64]), st.integers(0, 3))
def test_after_every_pack_shares_hold_within_one_pack_and_conversations_are_used_equally_often(
    found, packs, most, seed
):
    lists, weights = found
    sizes = np.concatenate([np.array(each) for each in lists])
    owner = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    rows = [np.flatnonzero(owner == number) for number in range(len(lists))]
    mixed = mix_packs(sizes, np.ones(len(sizes), int), rows, weights, ROOM, most, seed, None, packs * ROOM)
    assert mixed == mix_packs(sizes, np.ones(len(sizes), int), rows, weights, ROOM, most, seed, None, packs * ROOM)
    assert not mixed.ended
    wanted = np.array(weights) / sum(weights)
    given_to, used = np.zeros(len(lists)), np.zeros(len(sizes), int)
    for pack in mixed.packs:
        assert given_to.sum() < packs * ROOM  # the budget is met by the last pack alone
        assert sizes[pack].sum() <= ROOM and 1 <= len(pack) <= most
        np.add.at(given_to, owner[pack], sizes[pack])
        np.add.at(used, pack, 1)
        assert np.abs(given_to - wanted * given_to.sum()).max() <= ROOM
        assert all(used[one].max() - used[one].min() <= 1 for one in rows)
    assert given_to.sum() >= packs * ROOM
    assert len(mixed.epochs) == sum(map(len, mixed.packs))


@settings(max_examples=40, deadline=None)
@given(components(), st.sampled_from([0.5, 1, 2.5]))
def test_without_repeats_every_component_is_used_up_once_and_the_others_go_on(found, passes):
    lists, weights = found
    sizes = np.concatenate([np.array(each) for each in lists])
    owner = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    rows = [np.flatnonzero(owner == number) for number in range(len(lists))]
    mixed = mix_packs(sizes, np.ones(len(sizes), int), rows, weights, ROOM, 64, 0, passes, np.inf)
    used = Counter(row for pack in mixed.packs for row in pack)
    for one in rows:
        part = max(1, round(passes % 1 * len(one))) if passes % 1 else 0
        assert sorted(used[row] for row in one.tolist()) == sorted(
            [int(passes) + 1] * part + [int(passes)] * (len(one) - part)
        )
    assert set(mixed.ended) == set(range(len(lists)))
    # Until the first one ends, shares hold.
    wanted, given_to = np.array(weights) / sum(weights), np.zeros(len(lists))
    for pack in mixed.packs[: min(mixed.ended.values()) - 1]:
        np.add.at(given_to, owner[pack], sizes[pack])
        assert np.abs(given_to - wanted * given_to.sum()).max() <= ROOM


def test_a_mixture_of_long_and_short_fills_packs_as_one_kind_does():
    lengths = llava_lengths(share=0.01)
    kinds = {"vqav2": 0.2, "ocrvqa": 0.2, "vg": 0.2, "llava_reasoning": 0.3, "text_only": 0.1}
    plan, told = plan_mixture(lengths, 4096, 1, step(kinds), 64)
    assert fill_rate(plan, 4096) >= 0.98
    assert {name: round(one["share"], 6) for name, one in told.items()} == kinds
    for name, one in told.items():
        assert pc.sum(plan.filter(pc.equal(plan["source"], name))["length"]).as_py() == one["tokens"]
        assert abs(one["tokens"] - one["share"] * pc.sum(plan["length"]).as_py()) <= 4096


def test_text_only_is_a_component_of_its_own_and_its_kind_is_pictured_alone():
    lengths = lengths_of(source=[8] * 4, talk=[8] * 4)
    plan, _ = plan_mixture(lengths, ROOM, 0, step({"source": 1}))
    assert plan.schema == PLAN
    assert all(name.startswith("source") for name in plan["sample_id"].to_pylist())
    plan, _ = plan_mixture(lengths, ROOM, 0, step({"text_only": 1, "source": 3}))
    sources = zip(plan["sample_id"].to_pylist(), plan["source"].to_pylist(), strict=True)
    assert {(name[:4], source) for name, source in sources} == {("sour", "source"), ("talk", "text_only")}


def test_held_out_loss_is_measured_on_the_mixture_s_components(run):
    wanted = step({"caption": 0.5, "text_only": 0.5})
    write_plan(run, wanted, FEED, seed=0)
    plan = read_parquet(run.path("plan/mix.parquet"))
    assert not held_out_pieces(run, wanted, plan, 2, seed=0)
    lengths = run.read_table("lengths")
    held = lengths.set_column(3, "split", pa.array(["val"] * len(lengths)))
    run.commit("feed", 0, "k", {"lengths/00000.parquet": held}, {})
    assert {kind for kind, _ in held_out_pieces(run, wanted, plan, 2, seed=0)} == {"caption", "text_only"}


def test_what_is_not_there_is_named_with_what_there_is():
    with pytest.raises(InputError, match="'interleaved' is in the shards; there are caption, text_only"):
        plan_mixture(lengths_of(caption=[8], talk=[9]), ROOM, 0, step({"caption": 0.5, "interleaved": 0.5}))
    with pytest.raises(InputError, match="tokens_per_pack"):
        plan_mixture(lengths_of(caption=[65]), ROOM, 0, step({"caption": 1}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"mixture": {"caption": 0}}, "weight of 'caption'"),
        ({"mixture": {}}, "names no component"),
        ({"mixture": {"caption": 1}, "kinds": ["caption"]}, "leave `kinds` out"),
        ({"mixture": {"caption": 1}, "objective": "contrastive", "learn": {"clip": 1}}, "language"),
        ({"tokens": 9, "objective": "contrastive", "learn": {"clip": 1}}, "tokens"),
    ],
)
def test_mixtures_that_mean_nothing_are_refused(more, said):
    with pytest.raises(ValidationError, match=said):
        TrainStep(**{"name": "mix", "learn": {"connector": 1e-3}, **more})


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path)
    lengths = lengths_of(caption=[8] * 40, count=[16] * 10, talk=[32] * 2)
    run.commit("source", 0, "k", {"source/00000.parquet": pa.table({"row": [0]})}, {"rows": 1})
    run.commit("feed", 0, "k", {"lengths/00000.parquet": lengths}, {})
    return run


FEED = FeedSettings(tokens_per_pack=ROOM)


def test_a_component_that_runs_out_is_told(run, caplog):
    assert not ran_out(run, "mix")
    with caplog.at_level(logging.INFO, "sluice"):
        write_plan(run, step({"caption": 1, "text_only": 1}, tokens=640), FEED, seed=0)
    told = run.manifest("plan", "mix")["mixture"]
    assert told["text_only"] == {"share": 0.5, "tokens": 320, "passes": 5.0, "ended_at_pack": None}
    assert told["caption"]["passes"] == 1.0
    assert "'text_only' ran out and was repeated: 5.00 passes" in caplog.text and "'caption' ran" not in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "sluice"):
        write_plan(run, step({"caption": 1, "text_only": 1}, repeat=False), FEED, seed=0)
    told = run.manifest("plan", "mix")["mixture"]
    assert told["text_only"] == {"share": 0.5, "tokens": 64, "passes": 1.0, "ended_at_pack": 2}
    assert (
        ran_out(run, "mix")[1] == "'text_only' ran out after pack 2 (1.00 passes); the others went on by their weights"
    )
    assert all(line in caplog.text for line in ran_out(run, "mix"))


@pytest.mark.parametrize("mixture", [None, {"caption": 0.6, "count": 0.4}])
@pytest.mark.parametrize("tokens", [1, 100, 5000])
def test_a_budget_of_tokens_is_met_within_one_pack(run, mixture, tokens):
    wanted = step(mixture, tokens=tokens) if mixture else TrainStep(name="mix", learn={"connector": 1}, tokens=tokens)
    counts = write_plan(run, wanted, FEED, seed=0)
    assert tokens <= counts["tokens"] < tokens + ROOM
