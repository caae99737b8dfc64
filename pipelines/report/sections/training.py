"""Losses, on held-out conversations too, and rates of every training step."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from pipelines.report.charts import Chart, line_chart
from pipelines.report.material import Material
from schemas.vocabulary import Stage
from stages.feed.plan import ran_out
from stages.train.logs import log_path, read_log
from stages.train.validation import ALL


def training(material: Material) -> list[dict[str, Any]] | None:
    """For every step that has begun its losses and rates."""
    steps = []
    for step in material.recipe.train:
        lines = read_log(log_path(material.run, step.name))
        if not lines:
            continue
        number = [line["step"] for line in lines]
        loss = [line["loss"] for line in lines]
        validated = [line for line in lines if "validation" in line]
        steps.append({
            "name": step.name,
            "learn": step.learned(),
            "done": material.run.manifest(Stage.TRAIN, step.name) is not None,
            "steps": number[-1],
            "of": lines[-1].get("steps") or number[-1],
            "first": loss[0],
            "last": loss[-1],
            "tokens_per_s": float(np.mean([line.get("tokens_per_s", 0.0) for line in lines])),
            "filled": float(np.mean([line.get("filled", 0.0) for line in lines])),
            "plan": (material.run.manifest("plan", step.name) or {"counts": {}})["counts"],
            "held_out": validated[-1]["validation"] if validated else None,
            "best": min(validated, key=lambda line: line["validation"][ALL]) if len(validated) > 1 else None,
            "ran_out": ran_out(material.run, step.name),
            "loss": _loss_chart(number, loss, validated),
            "loss_by_kind": _kinds_chart(validated),
            "rates": _rate_chart(number, [line["lr"] for line in lines]),
        })  # fmt: skip
    return steps or None


def _loss_chart(steps: list[int], losses: list[float], validated: list[dict[str, Any]]) -> Chart:
    """The training loss, and beside it that on held-out conversations where it was measured more than once."""
    series = [("loss", steps, losses)]
    if len(validated) > 1:
        held_out = [line["validation"][ALL] for line in validated]
        series = [("training", steps, losses), ("held out", [line["step"] for line in validated], held_out)]
    return line_chart(series, "optimizer step", "loss")


def _kinds_chart(validated: list[dict[str, Any]]) -> Chart | None:
    """The loss on held-out conversations of each kind; None where there are not several kinds or measurements."""
    if len(validated) < 2 or len(validated[0]["validation"]) < 3:
        return None
    steps = [line["step"] for line in validated]
    kinds = sorted(kind for kind in validated[0]["validation"] if kind != ALL)
    series = [(kind, steps, [line["validation"][kind] for line in validated]) for kind in kinds]
    return line_chart(series, "optimizer step", "loss on held-out conversations by kind")


def _rate_chart(steps: list[int], rates: list[dict[str, float]]) -> Chart:
    """Learning rates as shares of each part's highest, so that parts with far different rates show in one chart."""
    series: dict[tuple[float, ...], list[str]] = defaultdict(list)
    for part in rates[0]:
        values = [line[part] for line in rates]
        highest = max(values) or 1.0
        series[tuple(round(value / highest, 4) for value in values)].append(part)
    named = [(", ".join(parts), steps, list(shares)) for shares, parts in series.items()]
    return line_chart(named, "optimizer step", "learning rate as a share of its highest")
