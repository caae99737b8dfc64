"""Checkpoints of a training step: whole or not there, the last two kept, so that any kill can be resumed from."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from schemas.errors import SluiceError
from stages.store import fetched, local_folder, remove_folder
from stages.train.loop import Progress
from stages.train.objectives import Objective

_KEPT = 2
#: The file that makes a state whole.
_LAST = "state.json"


class CheckpointFolder:
    """The states of one training step, each a folder named by its optimizer step.

    Args:
        path: the folder of the states.
        key: what the training step depends on; states with another key are removed, for they belong to another recipe.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def save(self, objective: Objective[Any], optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Writes a state: learned weights, optimizer, position. Removes all but the last two.

        Raises:
            SluiceError: the folder cannot be written, or the disk is full.
        """
        target = self.path / f"{progress.step:08d}"
        try:
            with local_folder(target, _LAST) as folder:
                temporary = folder.with_name(".writing")
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                save_file(_weights(objective), temporary / "weights.safetensors")
                torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
                (temporary / _LAST).write_text(json.dumps({"key": self.key, "progress": asdict(progress)}))
                _flush(temporary)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(temporary, folder)
        except OSError as error:
            raise SluiceError(
                f"cannot write checkpoint {target}: {error.strerror or error}; free some room, then run again"
            ) from error
        for old in self.states()[:-_KEPT]:
            remove_folder(old, _LAST)

    def resume(self, objective: Objective[Any], optimizer: torch.optim.Optimizer) -> Progress:
        """Loads the last state into `objective` and `optimizer`; a fresh `Progress` where there is none of this key."""
        for state in reversed(self.states()):
            kept = json.loads((state / _LAST).read_text())
            if kept["key"] != self.key:
                continue
            with fetched(state / "weights.safetensors") as file, torch.no_grad():
                weights = load_file(file)
                for name, value in _weights(objective).items():
                    value.copy_(weights[name])
            with fetched(state / "optimizer.pt") as file:
                optimizer.load_state_dict(torch.load(file, weights_only=True))
            return Progress(**kept["progress"])
        return Progress()

    def clear_others(self) -> None:
        """Removes states of another key."""
        for state in self.states():
            if json.loads((state / _LAST).read_text())["key"] != self.key:
                remove_folder(state, _LAST)

    def states(self) -> list[Path]:
        """Whole states, oldest first."""
        return sorted(path for path in self.path.glob("[0-9]*") if (path / _LAST).exists())


def _weights(objective: Objective[Any]) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": value.detach()
        for part, parameters in objective.parameters().items()
        for name, value in parameters.items()
    }


def _flush(folder: Path) -> None:
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
