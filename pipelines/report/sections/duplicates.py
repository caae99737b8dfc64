"""Groups of duplicates, the kept one beside those that were dropped for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.report.material import Material
from pipelines.report.rows import Shown
from schemas.vocabulary import Reason
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS, Fingerprints, fingerprints
from stages.select.dedup.perceptual import perceptual_pairs

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
#: How one of two pictures must be seen for their hashes to be nearest.
_VIEWS = ("", "mirrored", "cut to its centre", "mirrored and cut to its centre")


@dataclass(frozen=True)
class Duplicate:
    """A row that was dropped for another.

    Attributes:
        bits: of 64 in which the two perceptual hashes differ at least.
        seen: how one of the two is to be seen for that; empty where it is as it stands.
        cosine: of the two pictures' CLIP vectors.
        direct: False where the two are tied by a third row only, which was dropped in turn.
    """

    row: Shown
    kind: str
    bits: int | None
    seen: str
    cosine: float | None
    direct: bool


def duplicates(material: Material) -> dict[str, Any] | None:
    """Groups of duplicates: the one that was kept and why, then those that were dropped for it."""
    if not material.has_ledger:
        return None
    reasons = pa.array([reason.value for reason in DUPLICATES])
    table = material.rows.ledger.filter(pc.is_in(material.rows.ledger["reason"], reasons))
    table = table.filter(pc.is_valid(table["duplicate_of"])).select(["sample_id", "reason", "duplicate_of"])
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for identity, reason, keeper in zip(*(column.to_pylist() for column in table.columns), strict=True):
        groups[keeper].append((identity, reason))
    keepers = _telling_groups(groups)
    members = {keeper: sorted(groups[keeper])[:_DUPLICATES_A_GROUP] for keeper in keepers}
    shown = material.rows.show([*keepers, *(identity for found in members.values() for identity, _ in found)])
    compared = _Compared(material, members)
    made = []
    for keeper in keepers:
        # What an earlier run kept is no row of this one, or one that was dropped for itself.
        kept = shown.get(keeper)
        kept = None if kept is None or kept.reason in {reason.value for reason in DUPLICATES} else kept
        dropped = [compared.duplicate(keeper, shown[identity], Reason(reason)) for identity, reason in members[keeper]]
        made.append({
            "keeper": keeper,
            "kept": kept,
            "because": "" if kept is None else _because(kept, [one.row for one in dropped]),
            "dropped": dropped,
            "more": len(groups[keeper]) - len(members[keeper]),
        })  # fmt: skip
    kinds = {name: pc.sum(pc.equal(table["reason"], reason.value)).as_py() for reason, name in DUPLICATES.items()}
    return {
        "groups": made,
        "number": len(groups),
        "rows": len(table),
        "kinds": {name: number for name, number in kinds.items() if number},
    }


class _Compared:
    """How near the members of the shown groups are to the ones that were kept."""

    def __init__(self, material: Material, members: dict[str, list[tuple[str, str]]]) -> None:
        self._settings = material.recipe.select.dedup
        pairs = [(keeper, identity) for keeper, found in members.items() for identity, _ in found]
        self._cosines = material.rows.cosines(pairs)
        samples = material.rows.samples({one for pair in pairs for one in pair}, FINGERPRINT_COLUMNS)
        samples = samples.filter(pc.is_valid(samples["phash"])).combine_chunks()
        self._place = {identity: place for place, identity in enumerate(samples["sample_id"].to_pylist())}
        self._prints: Fingerprints = fingerprints(samples)

    def duplicate(self, keeper: str, dropped: Shown, reason: Reason) -> Duplicate:
        bits, seen, alike = None, "", True
        if keeper in self._place and dropped.sample_id in self._place:
            both = self._prints.take(np.array([self._place[keeper], self._place[dropped.sample_id]]))
            distances = {
                (int(both.hashes[one, 0] ^ both.hashes[1 - one, view]).bit_count(), view)
                for one, view in product(range(2), range(len(_VIEWS)))
            }
            bits, view = min(distances)
            seen = _VIEWS[view]
            alike = self._settings.perceptual is None or len(perceptual_pairs(both, self._settings.perceptual)[0]) > 0
        cosine = self._cosines.get((keeper, dropped.sample_id))
        semantic = self._settings.semantic
        near = cosine is None or semantic is None or cosine >= semantic.min_cosine - _ROUNDING
        # The row it was found to be near may itself have been dropped for another one, which is not so near.
        direct = {Reason.DUPLICATE_PERCEPTUAL: alike, Reason.DUPLICATE_SEMANTIC: near}.get(reason, True)
        return Duplicate(dropped, DUPLICATES[reason], bits, seen, cosine, direct)


def _because(kept: Shown, dropped: list[Shown]) -> str:
    """What the kept one has before the best of the others, by the order of preference."""
    best = max(dropped, key=_preference)
    ours, theirs = _preference(kept), _preference(best)
    if ours < theirs:  # kept for a third row's sake
        return ""
    if ours[0] != theirs[0]:
        return "the highest CLIP score"
    if ours[1] != theirs[1]:
        return "as high a CLIP score, more pixels"
    return f"the same CLIP score and size, the earlier row ({kept.row:,})"


def _preference(row: Shown) -> tuple[float, int, int]:
    score = float("-inf") if row.clip_score is None else row.clip_score
    return score, (row.width or 0) * (row.height or 0), -row.row


def _telling_groups(groups: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Keepers with the most duplicates of each kind."""
    chosen: list[str] = []
    for reason in DUPLICATES:
        number = {keeper: sum(kind == reason for _, kind in found) for keeper, found in groups.items()}
        of_kind = sorted((-count, keeper) for keeper, count in number.items() if count)
        chosen += [keeper for _, keeper in of_kind if keeper not in chosen][:_GROUPS_A_KIND]
    return chosen
