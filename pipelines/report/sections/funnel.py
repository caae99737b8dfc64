"""What was kept, and why the rest was not."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from pipelines.report.material import Material
from schemas.vocabulary import Reason
from stages import ledger


def funnel(material: Material) -> dict[str, Any] | None:
    """What was dropped, by stage and reason, with what is left after each."""
    if not material.has_ledger:
        return None
    lines = ledger.funnel(material.run)
    total = lines[0]["left"]
    stages: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines[1:]:
        info = Reason(line["reason"]).info
        stages[line["stage"]].append({**line, "text": info.text, "transient": info.transient})
    splits = Counter(material.rows.kept()["split"].to_pylist())
    return {
        "total": total,
        "kept": lines[-1]["left"],
        "stages": [
            {"name": name, "rows": sum(line["rows"] for line in found), "left": found[-1]["left"], "lines": found}
            for name, found in stages.items()
        ],
        "transient": sum(line["rows"] for found in stages.values() for line in found if line["transient"]),
        "splits": {name: splits[name] for name in ("train", "val") if splits[name]},
    }
