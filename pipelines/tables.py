"""The tables that a run prints on the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Group
from rich.table import Table

from pipelines.recipe import load_recipe
from schemas.vocabulary import Reason
from stages.evaluate import FILE, step_results
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
    """First, middle and last loss of every training step, and its last one on held-out data; None before training."""
    logs = sorted(run.path("logs").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return None
    table = Table(title="Training", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "optimizer steps", "loss: first", "middle", "last", "held out", "tokens/s"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for path in logs:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if not lines:
            continue
        first, middle, last = lines[0], lines[len(lines) // 2], lines[-1]
        speed = sum(line.get("tokens_per_s", 0) for line in lines) / len(lines)
        held_out = f"{last['validation']['all']:.3f}" if "validation" in last else ""
        table.add_row(path.stem, str(last["step"]), *(f"{line['loss']:.3f}" for line in (first, middle, last)),
                      held_out, f"{speed:,.0f}")  # fmt: skip
    return table


def evaluation_table(run: RunFolder) -> Group | None:
    """Accuracy, margin and interval by kind beside the blind baselines, and after each step; None before evaluation."""
    path = run.path(FILE)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    table = Table(title=f"Held-out questions: {result['questions']:,}", title_justify="left", box=None, pad_edge=False)
    names = ["model", *(name for name in result["accuracy"] if name != "model")]
    for name in ("kind", *names, "margin", "95% interval"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind, measured in [*sorted(result["kinds"].items()), ("all", result)]:
        shares = [f"{100 * measured['accuracy'][name]:.1f}%" for name in names]
        table.add_row(kind, *shares, *_ahead(measured), style="bold" if kind == "all" else None)
    low, high = result["interval"]
    margin = (
        f"the model is {100 * result['margin']:+.1f} points from the best blind baseline ({result['best_baseline']}); "
        f"95% bootstrap interval {100 * low:+.1f} to {100 * high:+.1f}"
    )
    steps = step_results(run, load_recipe(run.path("recipe.yaml")))
    return Group(table, margin, *([_step_table(steps)] if steps else []))


def _step_table(steps: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="After each step", title_justify="left", box=None, pad_edge=False)
    for name in ("step", "model", "best blind", "margin", "95% interval"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, result in steps.items():
        shares = [f"{100 * result['accuracy'][who]:.1f}%" for who in ("model", result["best_baseline"])]
        table.add_row(name, *shares, *_ahead(result))
    return table


def _ahead(measured: dict[str, Any]) -> list[str]:
    """Margin over the best blind baseline and its interval, in points; older files have none by kind."""
    if "margin" not in measured:
        return ["", ""]
    low, high = measured["interval"]
    return [f"{100 * measured['margin']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]
