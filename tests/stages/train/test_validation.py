"""The loss on held-out conversations: what it is, by kind, and that it disturbs nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import models.compat  # noqa: F401

# isort: split
import pyarrow.parquet as pq
import pytest
import torch
from torch import distributed

from models.full import ModelSettings, build_model
from schemas.identity import digest_file
from stages.feed import PackReader, write_plan
from stages.feed.batches import LanguageCollate, Piece
from stages.run_folder import RunFolder
from stages.train.logs import log_path, read_log
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep
from stages.train.validation import Validation, held_out_pieces
from stages.train.weights import final_file
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run
from tests.stages.train.children import CHILDREN

STEP = TrainStep(
    name="both", learn={"connector": 3e-3, "language": 3e-3}, packs_per_step=2, precision="fp32", log_every=100
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"), attention_dropout=0.2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: ModelSettings) -> RunFolder:
    return planned(tmp_path_factory.mktemp("run"), model)


def planned(path: Path, model: ModelSettings) -> RunFolder:
    run = make_run(path)
    feed_all(run, model)
    write_plan(run, STEP, FEED.model_copy(update={"pictures_per_pack": 2}), seed=1)
    return run


def validation(
    run: RunFolder, model: ModelSettings, step: TrainStep = STEP, rank: int = 0, world: int = 1
) -> Validation:
    built, tokenizer = build_model(model, 1)
    reader = PackReader(run, ["val"])
    objective = LanguageObjective(built, step.learned())
    collate = LanguageCollate(reader, tokenizer, built.layout)
    plan = pq.read_table(run.path("plan", "both.parquet"))
    return Validation(run, step, plan, objective, lambda: collate, 1, rank, world)


def test_a_kinds_loss_is_that_of_its_conversations_one_by_one(run: RunFolder, model: ModelSettings) -> None:
    measured = validation(run, model)
    losses = measured.losses()
    assert losses is not None
    assert list(losses) == ["all", "detail", "template"]
    collate = measured._collate
    total = tokens = 0.0
    rows = [(kind, row) for kind, piece in measured._pieces for pack in piece.packs for row in pack]
    with measured.objective.measuring():
        for kind in ("detail", "template"):
            mine = [row for of, row in rows if of == kind]
            assert len(mine) == 4
            alone = [measured.objective.loss(collate(Piece(0, True, 1, [[row]]))).item() for row in mine]
            learned = sum(row["supervised"] for row in mine)
            assert losses[kind] == pytest.approx(sum(alone) / learned, rel=1e-5)
            total, tokens = total + sum(alone), tokens + learned
    assert losses["all"] == pytest.approx(total / tokens, rel=1e-5)


def test_only_held_out_conversations_of_the_steps_kinds_are_measured(run: RunFolder) -> None:
    plan = pq.read_table(run.path("plan", "both.parquet"))
    held_out = set(PackReader(run, ["val"]).sample_ids)

    def rows(**changes: object) -> list[dict[str, object]]:
        pieces = held_out_pieces(run, STEP.model_copy(update=changes), plan, 2, 1)
        return [row for _, piece in pieces for pack in piece.packs for row in pack]

    assert {row["sample_id"] for row in rows()} == held_out
    assert {row["source"] for row in rows(kinds=["detail"])} == {"detail"}
    assert {row["source"] for row in rows(mixture={"template": 1.0, "text_only": 1.0})} == {"template"}
    assert len(rows(validate_samples=3)) == 3
    assert rows(validate_samples=3) == rows(validate_samples=3)
    assert rows(validate_samples=0) == []


def as_rank(rank: int, store: Path, run: RunFolder, model: ModelSettings) -> dict[str, float] | None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return validation(run, model, rank=rank, world=2).losses()
    finally:
        distributed.destroy_process_group()


def test_two_ranks_measure_what_one_does(run: RunFolder, model: ModelSettings, tmp_path: Path) -> None:
    whole = validation(run, model)
    other = CHILDREN.Process(target=as_rank, args=(1, tmp_path / "store", run, model))
    other.start()
    shared = as_rank(0, tmp_path / "store", run, model)
    other.join()
    assert other.exitcode == 0
    assert shared == pytest.approx(whole.losses())


def test_measuring_does_not_change_what_is_learned(model: ModelSettings, tmp_path: Path) -> None:
    runs = [planned(tmp_path / name, model) for name in ("with", "without")]
    steps = [STEP.model_copy(update=changes) for changes in ({"validate_every": 2}, {"validate_samples": 0})]
    for run, step in zip(runs, steps, strict=True):
        StepWork(run, model, [step], 1).train()
    assert digest_file(runs[0].path(final_file("both"))) == digest_file(runs[1].path(final_file("both")))
    lines = read_log(log_path(runs[0], "both"))
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 9]
    assert all(set(line["validation"]) == {"all", "detail", "template"} for line in lines)
    assert lines[-1]["validation"]["all"] < lines[0]["validation"]["all"]
    assert "validation" not in read_log(log_path(runs[1], "both"))[-1]
    assert StepWork(runs[0], model, [steps[1]], 1).done()


def test_nothing_held_out_is_said_once_and_is_no_error(
    model: ModelSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = planned(tmp_path, model)
    step = STEP.model_copy(update={"kinds": ["detail"], "validate_every": 2})
    write_plan(run, step, FEED, seed=1)
    for part in run.parts():
        path = run.table_path("lengths", part)
        table = pq.read_table(path)
        pq.write_table(table.filter([value == "train" for value in table["split"].to_pylist()]), path)
    with caplog.at_level(logging.INFO, "sluice"):
        StepWork(run, model, [step], 1).train()
    assert sum("is held out: no validation" in record.message for record in caplog.records) == 1
