"""The figures at the top of the report."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from pipelines.report.material import Material
from schemas.vocabulary import Stage
from stages.graph import count_over_parts
from stages.run_folder import WHOLE


def headline(material: Material) -> dict[str, Any]:
    """The figures at the top. Those that are not there yet are None."""
    source = material.run.manifest(Stage.SOURCE, WHOLE)
    counts = count_over_parts(material.run, "ledger", material.run.parts())
    evaluation = material.evaluated
    return {
        "rows": source["counts"]["rows"] if source else None,
        "kept": counts.get("kept", 0) if material.has_ledger else None,
        "conversations": material.said["number"] if material.said else None,
        "turns": material.said["turns"] if material.said else None,
        "tokens": _training_tokens(material),
        "accuracy": evaluation,
        "language": material.recipe.model is not None,
    }


def _training_tokens(material: Material) -> dict[str, int] | None:
    """Tokens of the training conversations, those that carry loss, and tokens over all steps and epochs."""
    if material.recipe.model is None or not any(material.run.path("lengths").glob("[0-9]*.parquet")):
        return None
    lengths = material.run.read_table("lengths", columns=["split", "length", "supervised"])
    lengths = lengths.filter(pc.equal(lengths["split"], "train"))
    plans = [material.run.manifest("plan", step.name) for step in material.recipe.train]
    return {
        "once": pc.sum(lengths["length"]).as_py() or 0,
        "supervised": pc.sum(lengths["supervised"]).as_py() or 0,
        "planned": sum(plan["counts"]["tokens"] for plan in plans if plan),
    }
