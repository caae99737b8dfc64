"""Groups of duplicates, the kept one beside those that were dropped for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.material import Material
from pipelines.report.rows import Shown
from schemas.vocabulary import Reason

_GROUPS_A_KIND = 2
_DUPLICATES_A_GROUP = 2

#: Vectors are stored in half precision, so a cosine is this uncertain.
_ROUNDING = 2e-3

#: The reasons, and what the report calls them.
DUPLICATES = {
    Reason.DUPLICATE_EXACT: "exact",
    Reason.DUPLICATE_PERCEPTUAL: "perceptual",
    Reason.DUPLICATE_SEMANTIC: "semantic",
}


@dataclass(frozen=True)
class Duplicate:
    """A row that was dropped for another.

    Attributes:
        bits: of 64 in which the two perceptual hashes differ.
        cosine: of the two pictures' CLIP vectors.
        direct: False where the two are tied by a third row only, which was dropped in turn.
    """

    row: Shown
    kind: str
    bits: int | None
    cosine: float | None
    direct: bool


def duplicates(material: Material) -> dict[str, Any] | None:
    """Groups of duplicates: the one that was kept, then those that were dropped for it."""
    if not material.has_ledger:
        return None
    reasons = pa.array([reason.value for reason in DUPLICATES])
    table = material.rows.ledger.filter(pc.is_in(material.rows.ledger["reason"], reasons))
    table = table.filter(pc.is_valid(table["duplicate_of"])).select(["sample_id", "reason", "duplicate_of"])
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in table.to_pylist():
        groups[row["duplicate_of"]].append((row["sample_id"], row["reason"]))
    keepers = _telling_groups(groups)
    members = {keeper: sorted(groups[keeper])[:_DUPLICATES_A_GROUP] for keeper in keepers}
    shown = material.rows.show([*keepers, *(identity for found in members.values() for identity, _ in found)])
    cosines = material.rows.cosines([(keeper, identity) for keeper in keepers for identity, _ in members[keeper]])
    return {
        "groups": [
            {
                "kept": shown[keeper],
                "dropped": [
                    _duplicate(material, shown[keeper], shown[each], Reason(reason), cosines.get((keeper, each)))
                    for each, reason in members[keeper]
                ],
                "more": len(groups[keeper]) - len(members[keeper]),
            }
            for keeper in keepers
        ],
        "number": len(groups),
        "rows": len(table),
    }  # fmt: skip


def _duplicate(material: Material, kept: Shown, dropped: Shown, reason: Reason, cosine: float | None) -> Duplicate:
    bits = None
    if kept.phash and dropped.phash:
        bits = (int(kept.phash, 16) ^ int(dropped.phash, 16)).bit_count()
    dedup = material.recipe.select.dedup
    # The row it was found to be near may itself have been dropped for another one, which is not so near.
    direct = (
        reason is Reason.DUPLICATE_EXACT
        or (reason is Reason.DUPLICATE_PERCEPTUAL
            and (bits is None or dedup.perceptual is None or bits <= dedup.perceptual.max_hamming))
        or (reason is Reason.DUPLICATE_SEMANTIC
            and (cosine is None or dedup.semantic is None or cosine >= dedup.semantic.min_cosine - _ROUNDING))
    )  # fmt: skip
    return Duplicate(dropped, DUPLICATES[reason], bits, cosine, direct)


def _telling_groups(groups: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Keepers with the most duplicates of each kind."""
    chosen: list[str] = []
    for reason in DUPLICATES:
        of_kind = [keeper for keeper, found in groups.items() if any(kind == reason for _, kind in found)]
        of_kind.sort(key=lambda keeper: (-sum(kind == reason for _, kind in groups[keeper]), keeper))
        chosen += [keeper for keeper in of_kind if keeper not in chosen][:_GROUPS_A_KIND]
    return chosen
