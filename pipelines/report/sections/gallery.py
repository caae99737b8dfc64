"""Kept and dropped rows with their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipelines.report.material import Material
from pipelines.report.rows import Shown
from pipelines.report.sections.contamination import CONTAMINATED
from pipelines.report.sections.duplicates import DUPLICATES
from schemas.vocabulary import Reason, Stage, State
from stages.ledger import funnel

_KEPT_PICTURES = 10
_DROPPED_PICTURES = 4
_FAILED_ROWS = 2


@dataclass(frozen=True)
class Dropped:
    """Some of the `number` rows that were dropped for one reason."""

    reason: Reason
    number: int
    shown: list[Shown]

    @property
    def pictured(self) -> bool:
        return any(row.jpeg for row in self.shown)


def gallery(material: Material) -> dict[str, Any] | None:
    """Kept rows, and dropped ones by reason: with their pictures, or with what was answered instead.

    Duplicates are left to `duplicates`, where they stand beside the kept ones, and what is near evaluation sets to
    `contamination`.
    """
    if not material.has_ledger:
        return None
    kept = material.rows.kept()
    chosen: list[tuple[Reason, int, list[str]]] = []
    for line in funnel(material.run)[1:]:
        reason = Reason(line["reason"])
        if reason in DUPLICATES or (reason in CONTAMINATED and material.recipe.select.decontaminate):
            continue
        number = _DROPPED_PICTURES if reason.info.stage not in (Stage.SOURCE, Stage.ACQUIRE) else _FAILED_ROWS
        chosen.append((reason, line["rows"], material.rows.spread(material.rows.dropped_for(reason.value), number)))
    shown = material.rows.show(
        [*material.rows.spread(kept, _KEPT_PICTURES), *(each for _, _, ids in chosen for each in ids)]
    )
    groups = [Dropped(reason, number, [shown[identity] for identity in ids]) for reason, number, ids in chosen]
    return {
        "kept": [row for row in shown.values() if row.state == State.KEPT],
        "kept_rows": len(kept),
        "pictured": [group for group in groups if group.pictured],
        "failed": [group for group in groups if not group.pictured],
    }
