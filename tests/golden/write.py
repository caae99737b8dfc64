"""Writes the golden files anew: `python -m tests.golden.write [RECIPE ...]`, all of them where none is named.

A golden file holds what the first optimizer steps of a recipe's miniature gave: losses, rates, lengths of gradients.
A refactor, a faster kernel or another cut of the work keeps them: where the test fails after such a change, the change
is wrong and the file is not. They are written anew when what is learned is meant to change (another recipe,
initialization, tokenization, order of the data, loss), together with an entry in the changelog that says so.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.golden.miniature import FOLDER, NAMES, run_miniature


def write(name: str) -> None:
    """Trains the miniature of one recipe and writes its golden file."""
    with tempfile.TemporaryDirectory() as folder:
        found = run_miniature(name, Path(folder))
    lines = {step: [json.dumps(line) for line in log] for step, log in found.items()}
    steps = [f'  "{step}": [\n    ' + ",\n    ".join(log) + "\n  ]" for step, log in lines.items()]
    (FOLDER / f"{name}.json").write_text("{\n" + ",\n".join(steps) + "\n}\n")


if __name__ == "__main__":
    for asked in sys.argv[1:] or NAMES:
        write(asked)
