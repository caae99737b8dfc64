"""Checkpoints of a training step: whole or not there, written in the background, so that any kill can be resumed."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from schemas.errors import SluiceError
from stages.store import fetched, local_folder, remove_folder
from stages.train.loop import Progress
from stages.train.objectives import Objective
from stages.train.sharding import collected, cut_like, load_state, whole_state

log = logging.getLogger("sluice")

#: The file that makes a state whole.
_LAST = "state.json"


class CheckpointFolder:
    """The states of one training step, each a folder named by its optimizer step.

    As a context manager it waits at its end for the write that is under way.

    Args:
        path: the folder of the states.
        key: what the training step depends on; states with another key are removed, for they belong to another recipe.
        keep: how many of the last states stay; the one with the lowest validation loss stays besides.
    """

    def __init__(self, path: Path, key: str, keep: int = 2) -> None:
        self.path, self.key, self.keep = path, key, keep
        self._memory = _Memory()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except SluiceError as failed:
            if kind is None:
                raise
            log.error("%s", failed)
        finally:
            self._writer.shutdown()

    def save(
        self, objective: Objective[Any], optimizer: torch.optim.Optimizer, progress: Progress, write: bool = True
    ) -> None:
        """Copies a state (learned weights, optimizer, position) to memory, and has it written in the background.

        One state is written at a time: this waits for the one before.

        Args:
            write: of ranks that share the model, all must call and one writes.

        Raises:
            SluiceError: the state before this one could not be written.
        """
        self.wait()
        if objective.sharded:
            weights, moments = learned_weights(objective, keep=write), whole_state(optimizer, keep=write)
        else:
            weights = self._memory.copy("weights", learned_weights(objective))
            moments = self._memory.copy("optimizer", optimizer.state_dict())
        if not write:
            return
        copied = torch.cuda.Event() if torch.cuda.is_available() else None
        if copied is not None:
            copied.record()
        self._writing = self._writer.submit(self._write, weights, moments, asdict(progress), copied)

    def wait(self) -> None:
        """Waits for the state that is being written.

        Raises:
            SluiceError: the folder cannot be written, or the disk is full.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def resume(self, objective: Objective[Any], optimizer: torch.optim.Optimizer) -> Progress:
        """Loads the last state into `objective` and `optimizer`; a fresh `Progress` where there is none of this key."""
        for state in reversed(self.states()):
            kept = json.loads((state / _LAST).read_text())
            if kept["key"] != self.key:
                continue
            with fetched(state / "weights.safetensors") as file:
                put_weights(objective.parts, load_file(file))
            with fetched(state / "optimizer.pt") as file:
                load_state(optimizer, torch.load(file, weights_only=True))
            return Progress(**kept["progress"])
        return Progress()

    def clear_others(self) -> None:
        """Removes states of another key, and what a kill left half removed."""
        whole = self.states()
        for state in self.path.glob("[0-9]*"):
            if state not in whole or json.loads((state / _LAST).read_text())["key"] != self.key:
                remove_folder(state, _LAST)

    def states(self) -> list[Path]:
        """Whole states, oldest first."""
        return sorted(path for path in self.path.glob("[0-9]*") if (path / _LAST).exists())

    def _write(
        self, weights: dict[str, torch.Tensor], moments: Any, progress: dict[str, Any], copied: torch.cuda.Event | None
    ) -> None:
        """Writes one state, then removes those that need not stay."""
        if copied is not None:
            copied.synchronize()
        target = self._place(progress["step"])
        try:
            with local_folder(target, _LAST) as folder:
                temporary = folder.with_name(".writing")
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                save_file(weights, temporary / "weights.safetensors")
                torch.save(moments, temporary / "optimizer.pt")
                (temporary / _LAST).write_text(json.dumps({"key": self.key, "progress": progress}))
                _flush(temporary)
                remove_folder(folder, _LAST)
                os.replace(temporary, folder)
        except (
            OSError,
            SafetensorError,
            RuntimeError,
        ) as error:  # each writer has its own way to say: the disk is full
            said = (error.strerror if isinstance(error, OSError) else None) or error
            raise SluiceError(f"cannot write checkpoint {target}: {said}; free some room, then run again") from error
        for old in self.states()[: -self.keep]:
            if old != self._place(progress["best_step"]):
                remove_folder(old, _LAST)

    def _place(self, step: int) -> Path:
        return self.path / f"{step:08d}"


class _Memory:
    """Copies of tensors on the CPU, each time in the same place, which is pinned for those of a GPU."""

    def __init__(self) -> None:
        self._kept: dict[str, torch.Tensor] = {}

    def copy(self, name: str, value: Any) -> Any:
        """`value` with every tensor in its dicts and lists copied. Copies from a GPU may still be under way."""
        if isinstance(value, dict):
            return {key: self.copy(f"{name}/{key}", each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.copy(f"{name}/{place}", each) for place, each in enumerate(value)]
        if not isinstance(value, torch.Tensor):
            return value
        if name not in self._kept:
            self._kept[name] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return self._kept[name].copy_(value, non_blocking=True)


def learned_weights(objective: Objective[Any], keep: bool = True) -> dict[str, torch.Tensor]:
    """What the parts have learned, by `<part>.<name>`, as it stands in memory; of a shared model, copies of it.

    Args:
        keep: of ranks that share the model, all must call, and those that need not hold it get empty tensors.
    """
    return {
        f"{part}.{name}": collected(value.detach(), keep) if objective.sharded else value.detach()
        for part, parameters in objective.parameters().items()
        for name, value in parameters.items()
    }


@torch.no_grad()
def put_weights(parts: Mapping[str, nn.Module], weights: Mapping[str, torch.Tensor]) -> None:
    """Puts `learned_weights` into a model's parts."""
    own = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}
    for name, value in weights.items():
        own[name].copy_(cut_like(value, own[name]))


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
