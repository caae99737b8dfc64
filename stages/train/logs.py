"""A training step's log: one JSON object a line in RUN/logs/<step>.jsonl, and the same for TensorBoard.

TensorBoard's files are written locally; a remote run gets them when the step ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.run_folder import RunFolder
from stages.store import append, upload, write_atomically


class StepLog:
    """Appends lines. Lines after optimizer step `after` are taken out first: a resumed run writes them again."""

    def __init__(self, run: RunFolder, name: str, after: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = log_path(run, name)
        lines = [line for line in read_log(self.path) if line["step"] <= after]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self.run, self.folder = run, run.local_path("tensorboard", name)
        self.board = SummaryWriter(self.folder, purge_step=after + 1)

    def write(self, line: dict[str, Any]) -> None:
        append(self.path, json.dumps(line) + "\n")
        for name in ("loss", "gradient", "tokens_per_s", "filled"):
            self.board.add_scalar(name, line[name], line["step"])
        for group, name in (("lr", "lr"), ("gradients", "gradient"), ("validation", "validation")):
            for part, value in line.get(group, {}).items():
                self.board.add_scalar(f"{name}/{part}", value, line["step"])

    def close(self) -> None:
        self.board.close()
        if not self.run.is_local:
            upload(self.folder, self.run.path("tensorboard", self.folder.name))


def log_path(run: RunFolder, name: str) -> Path:
    return run.path("logs", f"{name}.jsonl")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; none where it is not there yet. A line that is being written is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
