"""The same recipe and seed give the same batches in the same order, however many actors fed and ranks train."""

import models.compat  # noqa: F401

# isort: split
from hashlib import sha256

import pytest
import ray
import torch

from models.full import picture_layout
from models.language import load_tokenizer
from stages.feed import PackReader, ShardWork, write_plan
from stages.feed.batches import LanguageCollate, PiecePlan, prefetch
from stages.graph import Place, run_parts
from stages.run_folder import RunFolder
from stages.store import read_parquet, read_range
from stages.train.settings import TrainStep
from tests.s3_store import found_s3
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

STEPS = [
    TrainStep(name="all", learn={"connector": 1e-3}, epochs=2, packs_per_step=4),
    TrainStep(name="mixed", learn={"connector": 1e-3}, mixture={"detail": 0.3, "template": 0.7}, packs_per_step=4),
]
PARTS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    run = make_run(tmp_path_factory.mktemp("run"), PARTS)
    feed_all(run, model)
    for step in STEPS:
        write_plan(run, step, FEED, seed=3)
    return run


def packs(run, model, step, world=1, accumulation=1, from_step=0):
    """For each optimizer step, pack number -> digest of the pack's tokens, labels, positions and pictures."""
    reader = PackReader(run, ["train"])
    collate = LanguageCollate(reader, load_tokenizer(model.language), picture_layout(model), pixels=False)
    plan = read_parquet(run.path("plan", f"{step.name}.parquet"))
    found = {}
    for rank in range(world):
        pieces = PiecePlan(plan, step.packs_per_step, accumulation, rank, world)
        for batch in prefetch(pieces.pieces(from_step), collate):
            samples = iter(batch.samples)
            for place, number in enumerate(batch.packs):
                used = int((plan["pack"].to_numpy() == number).sum())
                shown = [next(samples) for _ in range(used)]
                digest = sha256(repr((batch.step, batch.divisor, shown)).encode())
                for tensor in (batch.input_ids, batch.labels, batch.position_ids):
                    # Padding goes with the longest pack of the piece.
                    until = sum(plan["length"].to_numpy()[plan["pack"].to_numpy() == number])
                    digest.update(tensor[place, :until].numpy().tobytes())
                assert number not in found.setdefault(batch.step, {})
                found[batch.step][number] = digest.hexdigest()
    return found


@pytest.mark.slow
def test_one_two_and_four_feed_actors_write_the_same_shards_and_plans(run, model, tmp_path):
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        for actors in (2, 4):
            other = make_run(tmp_path / str(actors), PARTS)
            place = Place(lambda other=other: ShardWork(other, FEED, model), num_cpus=1, actors=actors)
            assert sorted(run_parts([place], other.parts())) == other.parts()
            for step in STEPS:
                write_plan(other, step, FEED, seed=3)
                assert other.output_digest("plan", step.name) == run.output_digest("plan", step.name)
                assert packs(other, model, step) == packs(run, model, step)
            for part in run.parts():
                assert other.output_digest("feed", part) == run.output_digest("feed", part)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_and_accumulations_together_read_what_one_reads_in_the_same_steps(run, model, step, world, accumulation):
    alone = packs(run, model, step)
    assert packs(run, model, step, world, accumulation) == alone
    assert [number for found in alone.values() for number in found] == list(range(sum(map(len, alone.values()))))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
@pytest.mark.parametrize("world", [1, 2])
def test_a_resume_lands_on_the_next_pack(run, model, step, world):
    whole = packs(run, model, step)
    for begin in (1, len(whole) - 1):
        assert packs(run, model, step, world, from_step=begin) == {
            number: found for number, found in whole.items() if number >= begin
        }


def test_a_sample_by_number_is_one_range_read_here_and_in_s3(model, tmp_path, monkeypatch):
    reads = []

    def spied(path, offset, size):
        reads.append((path.name, offset, size))
        return read_range(path, offset, size)

    with found_s3(tmp_path):
        stored = make_run("s3://bucket/run", parts=1)
        here = make_run(tmp_path / "here", parts=1)
        monkeypatch.setattr("stages.feed.reader.read_range", spied)
        seen = []
        for one in (stored, here):
            feed_all(one, model)
            reader = PackReader(RunFolder(one.root), ["train"])
            reads.clear()
            seen.append([(reader.read(number).record, reader.read(number).jpeg) for number in range(len(reader))])
            rows = reader.index.to_pylist()
            assert reads == [(row["shard"], row["offset"], row["size"]) for row in rows for _ in range(2)]
        assert seen[0] == seen[1] and len(seen[0]) == 9
