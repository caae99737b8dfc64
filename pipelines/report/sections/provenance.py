"""The recipe of the run and what ran it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from pipelines.report.material import Material


def provenance(material: Material) -> dict[str, Any]:
    """The resolved recipe, and the versions of what ran it."""
    path = material.run.path("recipe.yaml")
    text = path.read_text()
    comments = re.findall(r"^# (\S+) (\d\S*)$", text, re.MULTILINE)
    body = re.sub(r"\A(#[^\n]*\n)+", "", text)
    table = material.recipe.source.table
    return {
        "name": material.recipe.name,
        "table": table if isinstance(table, str) else ", ".join(table),
        "recipe": re.sub(r"(://)[^/@\s]+@", r"\1…@", body),  # a password in an address is not for readers
        "versions": comments,
        "started": datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
