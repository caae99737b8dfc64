"""Training on a real Ray: a killed driver's run goes on and ends the same; a failure brings its own message."""

import os
import signal
import subprocess
import sys
import time

import models.compat  # noqa: F401

# isort: split
import psutil
import pytest
import ray

from models.compat import use_cores
from schemas.errors import SluiceError
from schemas.identity import digest_file
from stages.feed import write_plan
from stages.run_folder import RunFolder
from stages.train.logs import log_path, read_log
from stages.train.ray import run_training
from stages.train.settings import TrainStep
from stages.train.weights import final_file
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

STEPS = [
    TrainStep(name="align", learn={"connector": 3e-3}, epochs=6, packs_per_step=2, log_every=1, checkpoint_every=2),
    TrainStep(name="instruct", learn={"connector": 1e-3, "language": 1e-3}, packs_per_step=2, log_every=1),
]


class Recipe:
    """What training reads of a recipe."""

    def __init__(self, model, steps):
        self.seed, self.model, self.train, self.ray, self.train_workers, self.shard = 1, model, steps, self, 1, None


def planned(path, model):
    run = make_run(path)
    feed_all(run, model)
    for step in STEPS:
        write_plan(run, step, FEED, seed=1)
    return run


@pytest.fixture
def local_ray():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def drive(root, tokenizer):
    """What a driver process does; it is killed on the way."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    run_training(RunFolder(root), Recipe(make_model(tokenizer), STEPS))


@pytest.mark.slow
def test_a_killed_driver_goes_on_and_ends_with_the_same_weights(tmp_path):
    model = make_model(tmp_path / "tokenizer")
    whole, killed = planned(tmp_path / "whole", model), planned(tmp_path / "killed", model)
    use_cores()
    StepWork(whole, model, STEPS[:1], 1).train()
    StepWork(whole, model, STEPS, 1).train()

    code = (
        f"from tests.stages.train.test_ray import drive; drive({str(killed.root)!r}, {str(tmp_path / 'tokenizer')!r})"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.getcwd()})
    states = killed.path("checkpoints", "align", "state")
    while driver.poll() is None and not list(states.glob("0*/state.json")):
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert not StepWork(killed, model, STEPS, 1).done()
    seen = []
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        counts = run_training(killed, Recipe(model, STEPS), lambda name, line: seen.append((name, line["step"])))
        assert run_training(killed, Recipe(model, STEPS)) == counts
    finally:
        ray.shutdown()
    assert len(seen) == len(set(seen))
    for step in STEPS:
        lines, again = (read_log(log_path(run, step.name)) for run in (whole, killed))
        assert [line["loss"] for line in again] == [line["loss"] for line in lines]
        assert digest_file(killed.path(final_file(step.name))) == digest_file(whole.path(final_file(step.name)))
        assert counts[f"{step.name}_steps"] == lines[-1]["steps"]


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_failure_in_a_worker_brings_its_own_message(tmp_path):
    model = make_model(tmp_path / "tokenizer")
    run = planned(tmp_path / "run", model)
    shard = run.path("shards", "train-000000.tar")
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(SluiceError, match=r"train-000000.tar is cut short"):
        run_training(run, Recipe(model, STEPS))


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_is_killed_says_what_needs_less_memory(tmp_path):
    model = make_model(tmp_path / "tokenizer")
    run = planned(tmp_path / "run", model)

    def kill(name, line):
        for process in psutil.Process().children(recursive=True):
            if "TrainWorker" in process.name() or "TrainWorker" in " ".join(process.cmdline()):
                process.kill()

    long = STEPS[0].model_copy(update={"epochs": 6, "checkpoint_every": 1000})
    with pytest.raises(SluiceError, match=r"'align': a worker was killed .*memory.*train.align: accumulation: 2"):
        run_training(run, Recipe(model, [long]), kill)
