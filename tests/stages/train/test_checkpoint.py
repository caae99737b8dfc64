"""States are written while training goes on; the last ones and the best stay; what goes wrong is said."""

from __future__ import annotations

import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import models.compat  # noqa: F401

# isort: split
import pytest
import torch
from torch import nn

from models.full import ModelSettings
from schemas.errors import SluiceError
from stages.feed import write_plan
from stages.run_folder import RunFolder
from stages.train import checkpoint
from stages.train.checkpoint import CheckpointFolder
from stages.train.loop import Progress
from stages.train.settings import TrainStep
from stages.train.validation import Validation
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

STEP = TrainStep(
    name="align",
    learn={"connector": 3e-3},
    packs_per_step=2,
    precision="fp32",
    log_every=1,
    checkpoint_every=2,
    validate_every=1,
)


class OneWeight:
    """An objective with one matrix that learns."""

    sharded = False

    def __init__(self, size: int = 3) -> None:
        self.weight = nn.Parameter(torch.zeros(2, size))
        self.parts = {"connector": nn.ParameterDict({"weight": self.weight})}

    def parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        return {"connector": {"weight": self.weight}}


def optimizer_of(objective: OneWeight) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW([objective.weight])
    objective.weight.sum().backward()
    optimizer.step()
    return optimizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def run(tmp_path: Path, model: ModelSettings) -> RunFolder:
    run = make_run(tmp_path / "run")
    feed_all(run, model)
    write_plan(run, STEP, FEED.model_copy(update={"pictures_per_pack": 2}), seed=1)
    return run


def test_training_goes_on_while_a_state_is_written(
    run: RunFolder, model: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = threading.Event()
    seen: list[bool] = []
    write = checkpoint.save_file

    def wait(weights: dict[str, torch.Tensor], file: Path) -> None:
        seen.append(later.wait(60))
        write(weights, file)

    def log(self: Any, line: dict[str, Any]) -> None:
        if line["step"] == 3:  # the state after step 2 is not written yet
            later.set()

    monkeypatch.setattr(checkpoint, "save_file", wait)
    monkeypatch.setattr("stages.train.logs.StepLog.write", log)
    StepWork(run, model, [STEP.model_copy(update={"keep_best": False})], 1).train()
    assert seen and all(seen)


def test_a_state_holds_the_weights_of_its_own_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    write = checkpoint.save_file
    monkeypatch.setattr(checkpoint, "save_file", lambda *given: go_on.wait(60) and write(*given))
    states, objective = CheckpointFolder(tmp_path, "key"), OneWeight()
    optimizer = optimizer_of(objective)
    with states:
        states.save(objective, optimizer, Progress(step=1))  # type: ignore[arg-type]
        with torch.no_grad():
            kept = objective.weight.clone()
            objective.weight.add_(1)
            optimizer.state[objective.weight]["exp_avg"].add_(1)
        go_on.set()
    other = OneWeight()
    loaded = torch.optim.AdamW([other.weight])
    assert states.resume(other, loaded) == Progress(step=1)  # type: ignore[arg-type]
    assert torch.equal(other.weight, kept)
    moved = optimizer.state[objective.weight]["exp_avg"] - loaded.state[other.weight]["exp_avg"]
    assert torch.allclose(moved, torch.ones(()))


@pytest.mark.parametrize(("best_step", "left"), [(0, [4, 5]), (2, [2, 4, 5]), (5, [4, 5])])
def test_the_last_states_and_the_best_stay(tmp_path: Path, best_step: int, left: list[int]) -> None:
    objective = OneWeight()
    optimizer = optimizer_of(objective)
    with CheckpointFolder(tmp_path, "key", keep=2) as states:
        for step in range(1, 6):
            best = best_step if step >= best_step else 1
            states.save(objective, optimizer, Progress(step=step, best_step=best))  # type: ignore[arg-type]
    assert [int(state.name) for state in states.states()] == left


def test_the_lowest_held_out_loss_is_kept(
    run: RunFolder, model: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([5.0, 4.0, 1.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(Validation, "losses", lambda self: {"all": next(measured)})
    StepWork(run, model, [STEP.model_copy(update={"keep": 1})], 1).train()
    assert [path.name for path in sorted(run.path("checkpoints", "align", "state").iterdir())] == [
        "00000003",  # the best, although no checkpoint was due
        "00000008",
    ]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process can grow beyond `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [100, 500_000])  # the weights do not fit; the optimizer's state does not
def test_what_goes_wrong_in_the_background_ends_the_step(tmp_path: Path, room: int) -> None:
    objective = OneWeight(50_000)
    optimizer = optimizer_of(objective)
    states = CheckpointFolder(tmp_path, "key")
    with full_disk(room):
        states.save(objective, optimizer, Progress(step=1))  # type: ignore[arg-type]
        with pytest.raises(SluiceError, match=r"cannot write checkpoint .*00000001.*free some room, then run again"):
            states.save(objective, optimizer, Progress(step=2))  # type: ignore[arg-type]
        with pytest.raises(SluiceError, match="cannot write checkpoint"), states:
            states.save(objective, optimizer, Progress(step=3))  # type: ignore[arg-type]
    assert states.states() == []


def test_an_error_of_the_loop_is_not_hidden_by_one_of_the_writer(tmp_path: Path) -> None:
    objective = OneWeight(50_000)
    states = CheckpointFolder(tmp_path, "key")
    with full_disk(100):
        states.save(objective, optimizer_of(objective), Progress(step=1))  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError), states:
            1 / 0  # noqa: B018
