"""What the rules measured before: while the rows are the same, another threshold measures nothing again."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.identity import digest, digest_bytes
from schemas.settings import Settings
from schemas.tables import MASKED
from schemas.vocabulary import Stage
from stages.run_folder import WHOLE, RunFolder
from stages.select.rules import MASK_VERSION, asked_rules

_MASKED = "masked"


@dataclass(frozen=True)
class Known:
    """Measures of all rows by `row`, float32, as `Candidates` has them; and the masked captions."""

    measures: Mapping[str, np.ndarray] = field(default_factory=dict)
    masked: pa.Table | None = None


def measured_from(settings: Settings, inputs: list[str | None]) -> dict[str, str]:
    """What each of the rules' measures, and the masked captions, depend on: stands in select's manifest.

    Args:
        settings: a `RuleSettings`.
        inputs: digests of what the source and acquire stages committed.
    """
    rows = digest(inputs)
    keys = {rule.measure: digest([rule.version, rule.depends(limit), rows]) for rule, limit in asked_rules(settings)}
    return {**keys, _MASKED: digest([MASK_VERSION, rows])}


def read_known(run: RunFolder, keys: dict[str, str]) -> Known:
    """What the run's last decision measured under the same of `keys`."""
    manifest = run.manifest(Stage.SELECT, WHOLE) or {}
    same = [name for name, key in keys.items() if manifest.get("measured_from", {}).get(name) == key]
    names = [name for name in same if name != _MASKED]
    scores = _committed(run, manifest, "scores.parquet") if names else None
    masked = _committed(run, manifest, "masked.parquet") if _MASKED in same else None
    return Known(
        {} if scores is None else {name: scores[name].to_numpy() for name in names},
        # Parquet calls a list's items otherwise, which would give other bytes.
        None if masked is None else masked.cast(MASKED),
    )


def _committed(run: RunFolder, manifest: dict[str, Any], name: str) -> pa.Table | None:
    """The table, if it is what the manifest vouches for: a commit that was killed may have left another."""
    try:
        data = run.path(name).read_bytes()
    except FileNotFoundError:
        return None
    return pq.read_table(io.BytesIO(data)) if digest_bytes(data) == manifest["outputs"][name] else None
