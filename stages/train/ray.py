"""Training on Ray Train. Ray starts and restarts the workers; order, position and weights are the project's own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from models.full import ModelSettings
from schemas.errors import SluiceError
from stages.run_folder import RunFolder
from stages.store import arrow_place, remove_folder
from stages.train.failures import memory_remedies
from stages.train.logs import log_path, read_log
from stages.train.settings import TrainStep
from stages.train.validation import ALL
from stages.train.work import StepWork

log = logging.getLogger("sluice")

OnLog = Callable[[str, dict[str, Any]], None]

#: Seconds between looks at the log for news.
_WATCH_EVERY = 1.0
#: Workers wait so long for one another, seconds.
_COLLECTIVE_TIMEOUT_S = 1800


class RayPart(Protocol):
    """What training reads of the recipe's `ray` section."""

    @property
    def train_workers(self) -> int: ...
    @property
    def shard(self) -> bool | None: ...


class TrainRecipe(Protocol):
    """What training reads of a recipe."""

    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> ModelSettings | None: ...
    @property
    def train(self) -> list[TrainStep]: ...
    @property
    def ray(self) -> RayPart: ...


def run_training(
    run: RunFolder,
    recipe: TrainRecipe,
    on_log: OnLog | None = None,
    on_step: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Runs the recipe's training steps that are not done yet, each from its last checkpoint where there is one.

    Args:
        on_log: called with a step's name and each new line of its log while it runs.
        on_step: called when a step is done, with how many are.

    Returns:
        For each step: `<name>_steps`, `<name>_packs`, `<name>_loss`, the loss of its last log line, and
        `<name>_validation`, its last loss on held-out conversations, where there are any.

    Raises:
        SluiceError: a worker failed; the message is its own. Starting again goes on from the last checkpoint.
    """
    counts: dict[str, Any] = {}
    for number, step in enumerate(recipe.train):
        work = StepWork(run, recipe.model, recipe.train[: number + 1], recipe.seed)
        if not work.done():
            fit(work, recipe.ray, on_log)
        if on_step is not None:
            on_step(number + 1)
        manifest = run.manifest("train", step.name) or {"counts": {}}
        last = read_log(log_path(run, step.name))[-1:]
        counts |= {f"{step.name}_{name}": value for name, value in manifest["counts"].items()}
        counts |= {f"{step.name}_loss": line["loss"] for line in last}
        counts |= {f"{step.name}_validation": line["validation"][ALL] for line in last if "validation" in line}
    return counts


def fit(work: StepWork, ray_part: RayPart, on_log: OnLog | None = None, gpu_share: float = 1.0) -> None:
    """Trains one step on Ray workers, each with a CPU and, where there are GPUs, a share of one.

    Raises:
        SluiceError: as `run_training` does.
    """
    import torch
    from ray.train import RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = torch.cuda.is_available()
    storage = work.folder / "ray"
    remove_folder(storage)  # a killed driver's; positions are kept in our own checkpoints
    place, system = arrow_place(storage)
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "make": type(work).from_arguments,
            "work": work.arguments(),
            "shard": ray_part.shard,
            "cwd": os.getcwd(),
        },
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=ray_part.train_workers,
            use_gpu=gpus,
            resources_per_worker={"CPU": 1} | ({"GPU": gpu_share} if gpus else {}),
        ),
        run_config=RunConfig(name=work.step.name, storage_path=place, storage_filesystem=system),
    )
    try:
        with _Watch(work.run, work.step.name, on_log or _to_log):
            trainer.fit()
    except WorkerGroupError as error:
        raise _told(list(error.worker_failures.values()), work.step, ray_part) from error
    finally:
        remove_folder(storage)


def _told(causes: list[Exception], step: TrainStep, ray_part: RayPart) -> SluiceError:
    """One error for what ended the workers: their own message where there is one, else what is known of their death."""
    from ray.exceptions import RayActorError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    again = "run again to go on from its last checkpoint"
    own = next((cause for cause in causes if isinstance(cause, SluiceError)), None)
    if own is not None:
        return own
    if any(isinstance(cause, RayActorError | WorkerHealthCheckFailedError) for cause in causes):
        remedies = memory_remedies(step, ray_part.train_workers, bool(ray_part.shard))
        return SluiceError(
            f"training step '{step.name}': a worker was killed from outside. Where nobody did that on purpose, the "
            f"machine ran out of memory, and the kernel or Ray's memory monitor chose it: {remedies}; then {again}"
        )
    return SluiceError(f"training step '{step.name}' failed: {causes[0] if causes else 'no worker said why'}; {again}")


def _worker(config: dict[str, Any]) -> None:
    import ray.train
    import ray.train.torch

    from models.compat import keep_memory, use_cores

    os.chdir(config["cwd"])  # Ray Train starts workers elsewhere; the recipe's paths are relative to where it was run
    context = ray.train.get_context()
    use_cores()
    keep_memory()
    work, device = config["make"](config["work"]), ray.train.torch.get_device()
    work.train(context.get_world_rank(), context.get_world_size(), device, config["shard"])


class _Watch:
    """Reads a step's log in the background while it is written, and passes new lines on."""

    def __init__(self, run: RunFolder, name: str, on_log: OnLog) -> None:
        self.path, self.name, self.on_log = log_path(run, name), name, on_log
        self.stop = threading.Event()
        self.seen = 0
        self.thread = threading.Thread(target=self._work, name="training log", daemon=True)

    def __enter__(self) -> None:
        self.seen = max((line["step"] for line in read_log(self.path)), default=0)
        self.thread.start()

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.thread.join()
        self._look()

    def _work(self) -> None:
        while not self.stop.wait(_WATCH_EVERY):
            self._look()

    def _look(self) -> None:
        lines = read_log(self.path)
        self.seen = min(self.seen, max((line["step"] for line in lines), default=0))  # a fresh start cuts the log
        for line in lines:
            if line["step"] > self.seen:
                self.seen = line["step"]
                self.on_log(self.name, line)


def _to_log(name: str, line: dict[str, Any]) -> None:
    held_out = f", held out {line['validation'][ALL]:.4f}" if "validation" in line else ""
    of = "" if line["steps"] is None else f" of {line['steps']}"
    log.info("train %s: step %d%s, loss %.4f%s", name, line["step"], of, line["loss"], held_out)
