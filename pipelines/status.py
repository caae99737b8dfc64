"""`sluice status`: how far a run is, read off its manifests, also while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.recipe import load_recipe
from pipelines.tables import evaluation_table, funnel_table
from stages.feed.plan import ran_out
from stages.graph import count_over_parts
from stages.run_folder import RunFolder

_BY_PART = ("source", "acquire", "embed", "instruct", "feed", "ledger")


def show_status(run: RunFolder, out: Console) -> None:
    """Prints parts and rows by stage with rates and time left, training steps, and the funnel so far."""
    parts = run.parts()
    rows = {part: (run.manifest("source", part) or {"counts": {"rows": 0}})["counts"]["rows"] for part in parts}
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "parts", "rows", "rows/s", "left", "counts"):
        table.add_column(name, justify="right" if name in ("parts", "rows", "rows/s", "left") else "left")
    for stage in _BY_PART:
        done = [part for part in parts if run.manifest(stage, part)]
        rate, left = _pace([run.path("manifests", stage, f"{part:05d}.json") for part in done], rows, done)
        counts = ", ".join(f"{name} {value:,}" for name, value in sorted(count_over_parts(run, stage, done).items()))
        table.add_row(stage, f"{len(done)}/{len(parts)}", f"{sum(rows[part] for part in done):,}", rate, left, counts)
    recipe = load_recipe(run.path("recipe.yaml"))
    for step in recipe.train:
        log = run.path("logs", f"{step.name}.jsonl")
        lines = log.read_text().splitlines() if log.exists() else []
        last = json.loads(lines[-1]) if lines else {}
        finished = run.manifest("train", step.name) is not None
        said = f"optimizer step {last['step']}, loss {last['loss']:.3f}" if last else "not begun"
        table.add_row(f"train {step.name}", "done" if finished else "", "", "", "", said)
        for line in ran_out(run, step.name):
            table.add_row(f"plan {step.name}", "", "", "", "", line)
    out.print(table)
    if run.manifest("ledger", parts[0] if parts else 0):
        out.print(funnel_table(run))
    if (evaluation := evaluation_table(run)) is not None:
        out.print(evaluation)


def _pace(manifests: list[Path], rows: dict[int, int], done: list[int]) -> tuple[str, str]:
    """Rows a second between the first and the last commit, and the time left at that pace, as text."""
    if len(manifests) < 2:
        return "", ""
    times = sorted(path.stat().st_mtime for path in manifests)
    seconds = times[-1] - times[0]
    if seconds <= 0:
        return "", ""
    rate = sum(rows[part] for part in done) * (1 - 1 / len(done)) / seconds
    waiting = sum(rows.values()) - sum(rows[part] for part in done)
    return f"{rate:,.0f}", f"{waiting / rate:,.0f} s" if waiting else ""
