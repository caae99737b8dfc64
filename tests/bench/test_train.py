"""The peer of `bench.train` learns the same from the same samples, and FLOPs are counted as torch counts them."""

from dataclasses import replace

import models.compat  # noqa: F401

# isort: split
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from bench.train._padded import samples_of, train_padded
from bench.train.shapes import build, make_batches, step_flops
from models.attention import sample_bounds
from models.export import export_llava
from models.full import build_model
from stages.feed import PackReader
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.feed.plan import plan_packs
from stages.train.loop import Progress, make_optimizer, train_step
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep
from tests.stages.feed.tiny_run import feed_all, make_model, make_run

STEPS = 4


def test_both_have_the_same_losses(tmp_path):
    torch.set_num_threads(1)
    settings = make_model(tmp_path / "tokenizer")
    run = make_run(tmp_path / "run")
    feed_all(run, settings)
    step = TrainStep(
        name="instruct", learn={"connector": 1e-3, "language": 3e-3}, packs_per_step=2, schedule="constant",
        warmup_fraction=0, weight_decay=0.1, log_every=1, validate_samples=0,
    )  # fmt: skip
    model, tokenizer = build_model(settings, seed=1)
    export_llava(model, tokenizer, settings, tmp_path / "model")
    pieces = PiecePlan(plan_packs(run.read_table("lengths", run.parts()), 256, seed=1, epochs=3), 2, max_steps=STEPS)
    batches = list(pieces.batches(0, LanguageCollate(PackReader(run, ["train"]), tokenizer, model.layout)))
    samples = [samples_of(batch, model.image_token_id) for batch in batches]
    assert [sum(len(one["input_ids"]) for one in each) for each in samples] == [batch.tokens for batch in batches]

    objective, ours = LanguageObjective(model, step.learned(), step.precision), []
    train_step(
        objective, batches, step, STEPS, make_optimizer(objective, step), Progress(),
        lambda line: ours.append(line["loss"]), lambda _: None,
    )  # fmt: skip
    peer = LlavaForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.float32)
    found = train_padded(peer, samples, tokenizer.pad_token_id or 0, step, tmp_path / "out", batch=3)

    assert found["supervised"] == [batch.divisor for batch in batches]
    assert len(found["seconds"]) == STEPS and ours[-1] < 0.9 * ours[0]
    assert found["losses"] == pytest.approx(ours, rel=5e-3)


def test_flops_of_a_step_are_those_that_torch_counts():
    model = build("tiny", torch.device("cpu"))
    first = next(make_batches(model, 1))
    assert first.tokens > 0.99 * first.positions and len(first.tiles) == len(first.pixel_values)
    batch = replace(
        first, input_ids=first.input_ids[:, :2048] % 400, labels=first.labels[:, :2048].clone(), pixel_values=None,
        position_ids=torch.arange(64).repeat(len(first.packs), 32), tiles=[], tokens=len(first.packs) * 2048,
    )  # fmt: skip
    batch.labels[:, 0] = -100
    objective = LanguageObjective(model, {"language": 1e-3}, "bf16")
    with FlopCounterMode(display=False) as counter:
        objective.loss(batch).backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    lengths = sample_bounds(batch.position_ids)[0, 0, 0].diff().double()
    attention = 2 * 12 * 64 * float((lengths * (lengths + 1) / 2).sum())
    matrices = counts.pop("aten.mm")
    assert step_flops(model, batch, -2) == pytest.approx(matrices + attention, rel=1e-6)
    # torch counts all pairs of a sample's tokens, of which causal attention needs half.
    assert sum(counts.values()) == pytest.approx(2 * attention, rel=0.05)
