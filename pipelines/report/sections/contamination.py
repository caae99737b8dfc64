"""Samples that are near the pictures or questions of evaluation sets."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from pipelines.report.material import Material
from schemas.vocabulary import Reason
from stages.store import read_parquet

#: Pictures of each set and way, and in all; hits that are listed.
_PICTURES_A_WAY, _PICTURES, _LISTED = 6, 18, 1000

#: The ledger's reasons for what is shown here.
CONTAMINATED = (Reason.CONTAMINATED_PICTURE, Reason.CONTAMINATED_TEXT)
_WAYS = ("perceptual", "semantic", "text")


def contamination(material: Material) -> dict[str, Any] | None:
    """Every hit: of which set, which item, how near, and with the nearest ones their pictures."""
    path = material.run.path("contamination.parquet")
    sets = {one.name: one for one in material.recipe.select.decontaminate}
    if not sets or not path.exists() or not material.has_ledger:
        return None
    table = read_parquet(path)
    ways = []
    pictured = listed = 0
    for name in sets:
        for way in _WAYS:
            found = table.filter(pc.and_(pc.equal(table["set"], name), pc.equal(table["by"], way)))
            order = "ascending" if way == "perceptual" else "descending"
            found = found.sort_by([("value", order), ("sample_id", "ascending"), ("item", "ascending")])
            if not len(found):
                continue
            hits = found.slice(0, _LISTED - listed).to_pylist()
            few = dict.fromkeys(hit["sample_id"] for hit in hits)
            shown = list(few)[: min(_PICTURES_A_WAY, _PICTURES - pictured)]
            pictured, listed = pictured + len(shown), listed + len(hits)
            rows = material.rows.show(few, pictures=False) | material.rows.show(shown)
            told = [{**hit, "row": rows[hit["sample_id"]], "near": _near(hit, sets[name].ngram)} for hit in hits]
            first = {hit["sample_id"]: hit for hit in reversed(told)}
            ways.append({
                "set": name, "by": way, "number": len(found), "hits": told, "pictured": [first[one] for one in shown]
            })  # fmt: skip
    samples = len(pc.unique(table["sample_id"]))
    return {"sets": list(sets), "ways": ways, "hits": len(table), "samples": samples, "unlisted": len(table) - listed}


def _near(hit: dict[str, Any], ngram: int | None) -> str:
    if hit["by"] == "perceptual":
        return f"{hit['value']:.0f} of 64 bits differ"
    if hit["by"] == "semantic":
        return f"cosine {hit['value']:.3f}"
    runs = "run" if hit["value"] == 1 else "runs"
    return f"{hit['value']:.0f} {runs} of {ngram} words shared"
