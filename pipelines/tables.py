"""The tables that a run prints on the terminal."""

from __future__ import annotations

import json

from rich.console import Group
from rich.table import Table

from schemas.vocabulary import Reason
from stages.ledger import funnel
from stages.run_folder import RunFolder


def funnel_table(run: RunFolder) -> Table:
    """What was dropped, where and why, and what is left."""
    table = Table(title="The funnel", title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "reason", "rows", "left", "meaning"):
        table.add_column(name, justify="right" if name in ("rows", "left") else "left")
    for line in funnel(run):
        if line["reason"] is None:
            table.add_row(line["stage"], "", "", f"{line['left']:,}", "rows of the source table")
        else:
            meaning = Reason(line["reason"]).info.text
            table.add_row(line["stage"], line["reason"], f"-{line['rows']:,}", f"{line['left']:,}", meaning)
    return table


def loss_table(run: RunFolder) -> Table | None:
    """First, middle and last loss of every training step; None before training."""
    logs = sorted(run.path("logs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return None
    table = Table(title="Training", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "optimizer steps", "loss: first", "middle", "last", "tokens/s"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for path in logs:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if not lines:
            continue
        first, middle, last = lines[0], lines[len(lines) // 2], lines[-1]
        speed = sum(line.get("tokens_per_s", 0) for line in lines) / len(lines)
        table.add_row(path.stem, str(last["step"]), *(f"{line['loss']:.3f}" for line in (first, middle, last)),
                      f"{speed:,.0f}")  # fmt: skip
    return table


def evaluation_table(run: RunFolder) -> Group | None:
    """Accuracy by kind beside the blind baselines, and the margin with its interval; None before evaluation."""
    path = run.path("eval.json")
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    low, high = result["interval"]
    best = result["best_baseline"]
    table = Table(title=f"Held-out questions: {result['questions']:,}", title_justify="left", box=None, pad_edge=False)
    names = ["model", *(name for name in result["accuracy"] if name != "model")]
    for name in ("kind", *names):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, measured in sorted(result["kinds"].items()):
        table.add_row(kind, *(f"{100 * measured['accuracy'][name]:.1f}%" for name in names))
    table.add_row("all", *(f"{100 * result['accuracy'][name]:.1f}%" for name in names), style="bold")
    margin = (
        f"the model is {100 * result['margin']:+.1f} points from the best blind baseline ({best}); "
        f"95% bootstrap interval {100 * low:+.1f} to {100 * high:+.1f}"
    )
    return Group(table, margin)
