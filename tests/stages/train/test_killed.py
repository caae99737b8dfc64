"""A step killed by SIGKILL, again and again and while it writes, ends with the same losses and the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models.compat  # noqa: F401

# isort: split
import pytest
import torch

from models.full import ModelSettings
from schemas.identity import digest_file
from stages import run_folder
from stages.feed import write_plan
from stages.run_folder import RunFolder
from stages.train import checkpoint
from stages.train import work as work_module
from stages.train.logs import log_path, read_log
from stages.train.settings import TrainStep
from stages.train.weights import final_file
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run
from tests.stages.train.children import CHILDREN

STEP = TrainStep(
    name="both",
    learn={"connector": {"rate": 1e-3, "warmup_steps": 5}, "language": 3e-3},
    packs_per_step=1,
    precision="fp32",
    log_every=1,
    checkpoint_every=2,
    validate_every=5,
    validate_samples=4,
)


def wait_in_log(patch: pytest.MonkeyPatch) -> None:
    """After the fourth line, to be killed from outside."""
    kill_after(patch, work_module.StepLog, "write", 4, lambda *_: signal.pause())


def kill_in_log(patch: pytest.MonkeyPatch) -> None:
    """After the third line."""
    kill_after(patch, work_module.StepLog, "write", 3)


def kill_in_weights(patch: pytest.MonkeyPatch) -> None:
    """While the weights of the second state are half written."""

    def half(file: Path) -> None:
        os.truncate(file, file.stat().st_size // 2)

    kill_after(patch, checkpoint, "save_file", 2, lambda weights, file: half(file))


def kill_in_optimizer(patch: pytest.MonkeyPatch) -> None:
    """When a state's weights are there, and nothing else."""
    kill_after(patch, checkpoint, "save_file", 2)


def kill_before_rename(patch: pytest.MonkeyPatch) -> None:
    """When a state is written, and does not have its name yet."""
    kill_after(patch, checkpoint, "_flush", 2)


def kill_in_removal(patch: pytest.MonkeyPatch) -> None:
    """While an old state is being removed: of its files the first is gone."""
    seen: list[Path] = []

    def remove(path: Path, first: str) -> None:
        seen.extend([path] if (path / first).exists() else [])
        if len(seen) == 2:
            (path / first).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        remove_folder(path, first)

    remove_folder = checkpoint.remove_folder
    patch.setattr(checkpoint, "remove_folder", remove)


def kill_in_commit(patch: pytest.MonkeyPatch) -> None:
    """When the final weights are in place, and the manifest is not."""
    kill_after(patch, run_folder, "move_in", 1)


MOMENTS = [kill_in_log, kill_in_weights, kill_in_optimizer, kill_before_rename, kill_in_removal, kill_in_commit]


def kill_after(
    patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, then: Callable[..., Any] = lambda *_: None
) -> None:
    """Kills this process after so many calls of `owner.name`, and after `then` of its arguments."""
    real, calls = getattr(owner, name), []

    def stop(*arguments: Any) -> Any:
        result = real(*arguments)
        calls.append(arguments)
        if len(calls) == call:
            then(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    patch.setattr(owner, name, stop)


def train(root: Path, model: ModelSettings, moment: Callable[[pytest.MonkeyPatch], None] | None) -> None:
    """What a child does."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if moment is not None:
            moment(patch)
        StepWork(RunFolder(root), model, [STEP], 1).train()


def child(run: RunFolder, model: ModelSettings, moment: Callable[..., None] | None = None) -> Any:
    process = CHILDREN.Process(target=train, args=(run.root, model, moment))
    process.start()
    return process


def read(run: RunFolder) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = read_log(log_path(run, "both"))
    return [{name: value for name, value in line.items() if name != "tokens_per_s"} for line in lines]


def test_a_step_that_is_killed_at_every_moment_ends_as_one_that_is_not(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tokenizer", attention_dropout=0.1)
    whole = make_run(tmp_path / "whole")
    feed_all(whole, model)
    write_plan(whole, STEP, FEED.model_copy(update={"pictures_per_pack": 2}), seed=1)
    killed = RunFolder(shutil.copytree(whole.root, tmp_path / "killed"))
    uninterrupted = child(whole, model)

    from_outside = child(killed, model, wait_in_log)
    while from_outside.is_alive() and len(read(killed)) < 4:
        from_outside.join(0.01)
    from_outside.kill()
    from_outside.join()
    assert from_outside.exitcode == -signal.SIGKILL
    for moment in MOMENTS:
        process = child(killed, model, moment)
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment.__doc__
        assert not StepWork(killed, model, [STEP], 1).done()
    last = child(killed, model)
    last.join()
    uninterrupted.join()
    assert (last.exitcode, uninterrupted.exitcode) == (0, 0)

    assert len(read(whole)) == 18
    assert "validation" in read(whole)[4]
    assert read(killed) == read(whole)
    assert digest_file(killed.path(final_file("both"))) == digest_file(whole.path(final_file("both")))
    left = {path.name for path in killed.path("checkpoints", "both", "state").iterdir()}
    assert left == {path.name for path in whole.path("checkpoints", "both", "state").iterdir()}
