"""The ledger: one row for every source row, whatever befell it, and the law that the run must keep."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import LawError
from schemas.tables import LEDGER
from schemas.vocabulary import DedupRule, Reason, Stage, State
from stages.graph import PartOutput, PartWork, count_over_parts
from stages.run_folder import RunFolder
from stages.select.decisions import read_decisions, select_file, streamed
from stages.store import read_parquet


class LedgerWork(PartWork):
    """Joins what the stages said of one part into `ledger/00000.parquet`; counts are rows by reason and `kept`.

    Stages that have not run yet leave their columns null, so the ledger of an unfinished run is true as far as it goes.
    """

    stage = "ledger"
    version = 2
    upstream = ("source", "acquire", "embed", "select", "instruct", "feed")

    def settings(self) -> Any:
        return None

    def compute(self, part: int) -> PartOutput:
        source = read_parquet(
            self.run.table_path("source", part), columns=["sample_id", "row", "url", "caption", "reason"]
        )
        ids = source["sample_id"].combine_chunks()
        reasons: pa.Array = source["reason"].combine_chunks()
        columns: dict[str, Any] = {name: source[name] for name in ("sample_id", "row", "url", "caption")}

        renamed = {"http_status": "http_status", "image_sha256": "sha256", "phash": "phash",
                   "width": "original_width", "height": "original_height"}  # fmt: skip
        samples = _aligned(ids, self._read("samples", part, ["sample_id", "reason", *renamed.values()]))
        if samples is not None:
            reasons = pc.coalesce(reasons, samples["reason"])
            columns.update({name: samples[theirs] for name, theirs in renamed.items()})
        vectors = _aligned(ids, self._read("vectors", part, ["sample_id", "clip_score"]))
        if vectors is not None:
            columns["clip_score"] = vectors["clip_score"]
        decisions = _aligned(ids, self._decisions(part))
        if decisions is not None:
            reasons = pc.coalesce(reasons, decisions["reason"])
            columns["duplicate_of"], columns["split"] = decisions["duplicate_of"], decisions["split"]
            rule = DedupRule.EARLIER if streamed(self.run, part) else DedupRule.ALL
            columns["dedup"] = pc.if_else(
                pc.is_valid(decisions["duplicate_of"]), rule.value, pa.scalar(None, pa.string())
            )
        conversations = self._read("conversations", part, ["sample_id"])
        if conversations is not None and decisions is not None:
            unsaid = _aligned(ids, self._read("unsaid", part))
            if unsaid is not None:
                reasons = pc.coalesce(reasons, unsaid["reason"])
            without = pc.invert(pc.is_in(ids, conversations["sample_id"].combine_chunks()))
            reasons = pc.coalesce(reasons, _where(without, Reason.NO_CONVERSATION))
        dropped = _aligned(ids, self._read("feed", part, ["sample_id", "reason"]))
        if dropped is not None:
            reasons = pc.coalesce(reasons, dropped["reason"])
        shards = _aligned(ids, self._shards(part))
        if shards is not None:
            columns["shard"], columns["shard_offset"] = shards["shard"], shards["offset"]

        kept = pc.is_null(reasons)
        stages = {reason.value: reason.info.stage.value for reason in Reason}
        columns["reason"] = reasons
        columns["state"] = pc.if_else(kept, State.KEPT.value, State.DROPPED.value)
        columns["stage"] = pa.array([stages.get(reason) for reason in reasons.to_pylist()], pa.string())
        if "split" in columns:
            columns["split"] = pc.if_else(kept, columns["split"], pa.scalar(None, pa.string()))
        nulls = pa.nulls(len(ids))
        table = pa.table([columns.get(name, nulls) for name in LEDGER.names], LEDGER.names).cast(LEDGER)
        counts = Counter(reason or State.KEPT.value for reason in reasons.to_pylist())
        return PartOutput({f"ledger/{part:05d}.parquet": table}, dict(counts))

    def _read(self, folder: str, part: int, columns: list[str] | None = None) -> pa.Table | None:
        path = self.run.table_path(folder, part)
        return read_parquet(path, columns=columns) if path.exists() else None

    def _decisions(self, part: int) -> pa.Table | None:
        if not select_file(self.run, "decisions", part).exists():
            return None
        return read_decisions(self.run, part, ["sample_id", "reason", "duplicate_of", "split"])

    def _shards(self, part: int) -> pa.Table | None:
        paths = [self.run.path("shards", f"{split}-{part:06d}.index.parquet") for split in ("train", "val")]
        tables = [read_parquet(path, columns=["sample_id", "shard", "offset"]) for path in paths if path.exists()]
        return pa.concat_tables(tables) if tables else None


def _aligned(ids: pa.Array, table: pa.Table | None) -> pa.Table | None:
    """The rows of `table` in the order of `ids`; a row of nulls where it has none."""
    if table is None:
        return None
    return table.combine_chunks().take(pc.index_in(ids, value_set=table["sample_id"].combine_chunks()))


def _where(mask: pa.Array, reason: Reason) -> pa.Array:
    return pc.if_else(mask, pa.scalar(reason.value), pa.scalar(None, pa.string()))


def write_ledger(run: RunFolder) -> dict[str, int]:
    """Writes RUN/ledger for all parts and holds it against the law; returns rows by reason and `kept`.

    Raises:
        LawError: rows are missing, counted twice, or bear a reason that the vocabulary does not know.
    """
    work = LedgerWork(run)
    parts = run.parts()
    run.map(work.process, parts)
    check_law(run)
    return dict(count_over_parts(run, "ledger", parts))


def check_law(run: RunFolder) -> None:
    """Checks: source rows = kept + the sum of dropped over reasons, and each row is accounted for exactly once.

    The number of source rows is the one that was counted while the table was read, not one derived from the parts.
    Reads one part at a time; of each row it keeps a bit and half of its id.

    Raises:
        LawError: with the first breach.
    """
    parts = run.parts()
    manifests = [run.manifest("source", part) for part in parts]
    rows = sum(manifest["counts"]["rows"] for manifest in manifests if manifest)
    where = run.path("ledger")
    fed = (run.manifest(Stage.FEED, parts[0]) or {"outputs": {}})["outputs"] if parts else {}
    sharded = any(name.startswith("shards/train-") for name in fed)
    known = pa.array([reason.value for reason in Reason])
    seen = np.zeros(rows, bool)
    halves = np.zeros(rows, np.uint64)
    total = 0
    for part in parts:
        ledger = run.read_table("ledger", [part], ["sample_id", "row", "state", "reason", "shard"]).combine_chunks()
        kept = pc.and_(pc.equal(ledger["state"], State.KEPT.value), pc.is_null(ledger["reason"]))
        dropped = pc.and_(pc.equal(ledger["state"], State.DROPPED.value), pc.is_in(ledger["reason"], known))
        lawless = ledger.filter(pc.invert(pc.or_(kept, dropped).fill_null(False)))
        if len(lawless):
            state, reason = lawless["state"][0], lawless["reason"][0]
            raise LawError(f"the ledger holds a row with state '{state}' and reason '{reason}': {where}")
        homeless = pc.sum(pc.and_(kept, pc.is_null(ledger["shard"]))).as_py() if sharded else 0
        if homeless:
            raise LawError(f"{homeless} kept rows are in no shard: {run.path('shards')}")
        numbers = ledger["row"].to_numpy()
        if total + len(numbers) > rows:
            raise LawError(f"the ledger has more rows than the source, which has {rows}: {where}")
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= rows):
            raise LawError(f"the ledger holds a row that is not among the source's {rows}: {where}")
        if seen[numbers].any() or len(np.unique(numbers)) < len(numbers):
            raise LawError(f"a row stands in the ledger more than once: {where}")
        seen[numbers] = True
        text = "".join(pc.utf8_slice_codeunits(ledger["sample_id"], 0, 16).to_pylist())
        halves[total : total + len(numbers)] = np.frombuffer(bytes.fromhex(text), ">u8")
        total += len(numbers)
    if total != rows:
        raise LawError(f"the ledger has {total} rows and the source {rows}: {where}")
    halves.sort()
    if (halves[1:] == halves[:-1]).any():
        _check_ids(run, parts)


def _check_ids(run: RunFolder, parts: list[int]) -> None:
    """Whether ids that share their first half are the same."""
    ids = run.read_table("ledger", parts, ["sample_id"])["sample_id"]
    if pc.count_distinct(ids).as_py() < len(ids):
        raise LawError(f"a sample_id stands in the ledger more than once: {run.path('ledger')}")


def funnel(run: RunFolder) -> list[dict[str, Any]]:
    """What was dropped, in the order of the line: rows of stage, reason, rows, left (after this reason)."""
    counts = count_over_parts(run, "ledger", run.parts())
    left = sum(counts.values())
    lines: list[dict[str, Any]] = [{"stage": "source", "reason": None, "rows": left, "left": left}]
    for reason in Reason:
        if number := counts.get(reason.value, 0):
            left -= number
            lines.append({"stage": reason.info.stage.value, "reason": reason.value, "rows": number, "left": left})
    return lines
