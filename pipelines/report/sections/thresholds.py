"""What would change if a threshold of select moved, and what lies at its two sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.charts import Chart, line_chart
from pipelines.report.material import Material
from pipelines.report.rows import Shown
from schemas.vocabulary import Reason
from stages.store import read_parquet

_POINTS = 60
_GALLERIES, _EACH_SIDE = 4, 3
#: What lies further out does not stretch a curve's axis.
_TAIL = 0.01
#: The first letters of thresholds whose two sides are shown.
_JUDGING = ("clip.", "heads.", "strategy")


@dataclass(frozen=True)
class _Asked:
    """A threshold and the rows that no other threshold drops.

    Attributes:
        facts: of select.json.
        places: int64 [n], indexes into the run's rows.
        values: float32 [n], its measure; NaN where there is none, which passes.
    """

    facts: dict[str, Any]
    places: np.ndarray
    values: np.ndarray

    @property
    def at_least(self) -> bool:
        return self.facts["keeps"] == "at_least"

    @property
    def bound(self) -> np.float32:
        return np.float32(self.facts["value"])

    @property
    def failed(self) -> np.ndarray:
        return self.values < self.bound if self.at_least else self.values > self.bound

    @property
    def measured(self) -> np.ndarray:
        return self.values[np.isfinite(self.values)]


def thresholds(material: Material) -> dict[str, Any] | None:
    """Every threshold in order: what reached it, what it dropped, and how many rows it would keep elsewhere."""
    facts = material.select_facts.get("thresholds")
    if facts is None or not material.has_ledger or not material.run.path("scores.parquet").exists():
        return None
    ids, asked = _alone(material, facts)
    lines = []
    for one in asked:
        reason = Reason(one.facts["reason"])
        lines.append({
            "groups": None,
            **one.facts,
            "text": reason.info.text,
            "sign": "≥" if one.at_least else "≤",
            "share": one.facts["dropped"] / max(1, one.facts["reached"]),
            "alone": int(one.failed.sum()),
            "half": 2 * one.facts["dropped"] > one.facts["reached"],
            "chart": _curve(one),
        })  # fmt: skip
    judging = [one for one in asked if one.facts["name"].startswith(_JUDGING) and _continuous(one)]
    return {
        "lines": lines,
        "charts": [line for line in lines if line["chart"]],
        "half": sum(line["half"] for line in lines),
        "sides": _sides(material, ids, judging[:_GALLERIES]),
    }


def _alone(material: Material, facts: list[dict[str, Any]]) -> tuple[pa.ChunkedArray, list[_Asked]]:
    """The run's sample ids, and every threshold with the rows that it alone decides on.

    Those are the rows that select keeps, and those that this threshold drops and no other would. Select wrote both
    tables in the order of the source's rows.
    """
    measures = sorted({one["measure"] for one in facts})
    scores = read_parquet(material.run.path("scores.parquet"), columns=["sample_id", *measures])
    reason = read_parquet(material.run.path("decisions.parquet"), columns=["reason"])["reason"]
    values = {name: scores[name].to_numpy() for name in measures}
    whole = np.arange(len(scores))
    failed = [_Asked(one, whole, values[one["measure"]]).failed for one in facts]
    faults = np.sum(failed, axis=0, dtype=np.uint8) if failed else np.zeros(len(scores), np.uint8)
    reasons = pa.array({one["reason"] for one in facts}, pa.string())
    open_ = pc.or_(pc.is_null(reason), pc.is_in(reason, reasons)).to_numpy()
    asked = []
    for one, fails in zip(facts, failed, strict=True):
        places = np.flatnonzero(open_ & (faults == fails))
        asked.append(_Asked(one, places, values[one["measure"]][places]))
    return scores["sample_id"], asked


def _continuous(one: _Asked) -> bool:
    return bool((one.measured != np.rint(one.measured)).any())


def _curve(one: _Asked) -> Chart | None:
    """Rows kept against the threshold; None where the measure has not three values."""
    values = np.sort(one.measured)
    different = np.unique(values)
    if len(different) < 3:
        return None
    low, high = (float(values[round(share * (len(values) - 1))]) for share in (_TAIL, 1 - _TAIL))
    low, high = (low, high) if low < high else (float(values[0]), float(values[-1]))
    x = different if len(different) <= _POINTS else np.linspace(low, high, _POINTS)
    span, bound = float(x[-1] - x[0]), float(one.bound)
    near = x[0] - span <= bound <= x[-1] + span
    if near:
        x = np.union1d(x, [one.bound])
    x = x.astype(np.float32)
    passed = len(values) - np.searchsorted(values, x) if one.at_least else np.searchsorted(values, x, "right")
    kept = passed + len(one.values) - len(values)
    marker = (bound, f"{bound:,.4g}") if near else None
    return line_chart([("rows kept", x.tolist(), kept.tolist())], one.facts["measure"], "rows kept", marker)


def _sides(material: Material, ids: pa.ChunkedArray, asked: list[_Asked]) -> list[dict[str, Any]]:
    """Of each threshold the rows nearest to it: just kept, and just dropped by it alone."""
    nearest = []
    for one in asked:
        order = np.argsort(np.abs(one.values - one.bound), kind="stable")
        order = order[np.isfinite(one.values[order])]
        failed = one.failed[order]
        nearest.append((one, order[~failed][:_EACH_SIDE], order[failed][:_EACH_SIDE]))
    wanted = [one.places[side] for one, *both in nearest for side in both]
    shown = material.rows.show(ids.take(np.concatenate(wanted)).to_pylist() if wanted else [])

    def cards(one: _Asked, side: np.ndarray) -> list[tuple[Shown, float]]:
        names = ids.take(one.places[side]).to_pylist()
        return [(shown[name], float(value)) for name, value in zip(names, one.values[side], strict=True)]

    return [
        {**one.facts, "kept": cards(one, kept), "dropped": cards(one, dropped)}
        for one, kept, dropped in nearest
        if len(kept) + len(dropped)
    ]
