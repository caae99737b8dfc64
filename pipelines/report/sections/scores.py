"""How CLIP scores lie about their threshold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc

from pipelines.report.charts import histogram_chart
from pipelines.report.material import Material
from schemas.vocabulary import Reason


def scores(material: Material) -> dict[str, Any] | None:
    """The histogram of CLIP scores by what became of the rows."""
    if not material.has_ledger:
        return None
    ledger = material.rows.ledger.filter(pc.is_valid(material.rows.ledger["clip_score"]))
    if not len(ledger):
        return None
    low = pc.fill_null(pc.equal(ledger["reason"], Reason.CLIP_SCORE.value), False)
    kept = pc.is_null(ledger["reason"])
    other = pc.invert(pc.or_(low, kept))
    decided = material.select_facts
    groups = [
        (name, style, ledger["clip_score"].filter(mask).to_numpy())
        for name, style, mask in (
            ("kept", "kept", kept),
            ("dropped for another reason", "other", other),
            ("dropped for the score", "dropped", low),
        )
    ]
    clip = material.recipe.select.clip
    return {
        "chart": histogram_chart(groups, decided.get("threshold"), "CLIP score"),
        "threshold": decided.get("threshold"),
        "keep": clip.keep,
        "model": f"{clip.model} ({clip.pretrained})",
        "median": float(np.median(np.concatenate([values for _, _, values in groups]))),
    }
