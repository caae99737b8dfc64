"""Select's word on every source row: kept, or dropped by whom, why, and in favour of what."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import SluiceError
from schemas.tables import DECISIONS
from schemas.vocabulary import Reason, Stage, State
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.select.dedup import Verdicts, drop_duplicates
from stages.select.rules import apply_rules
from stages.select.score import histogram, threshold
from stages.select.settings import SelectSettings

VERSION = 1
_SAMPLE_COLUMNS = [
    "sample_id", "row", "caption", "original_width", "original_height", "sha256", "phash", "reason",
]  # fmt: skip


def decide(samples: pa.Table, vectors: pa.Table, settings: SelectSettings, holdout: float, seed: int) -> pa.Table:
    """Decides on every row; depends on the rows alone, not on their order or how they were cut into parts.

    Applied in order: what earlier stages dropped, rules, CLIP score, then exact, perceptual and semantic dedup. Of
    duplicates the one with the higher CLIP score is kept, then the one with more pixels, then the earlier row.

    Args:
        samples: `schemas.tables.SAMPLES` with a column `part` (int32); other columns than those used may be missing.
        vectors: `schemas.tables.vectors(dim)`: a row for each sample whose `reason` is null. The column `vector` is
            read for semantic dedup only.
        holdout: share of the kept samples that goes to `val`, by a hash of the sample's id.
        seed: draws another holdout.

    Returns:
        `schemas.tables.DECISIONS`, by `row`. `duplicate_of` is a sample that is kept.

    Raises:
        SluiceError: a sample whose `reason` is null has no vector.
    """
    samples = samples.sort_by("row").combine_chunks()
    place = pc.index_in(samples["sample_id"], vectors["sample_id"].combine_chunks()).combine_chunks()
    scores = vectors["clip_score"].take(place).combine_chunks() if samples.num_rows else pa.array([], pa.float32())
    open_rows = pc.is_null(samples["reason"]).to_numpy()
    lost = np.flatnonzero(open_rows & pc.is_null(place).to_numpy(zero_copy_only=False))
    if len(lost):
        lost_id = samples["sample_id"][int(lost[0])]
        raise SluiceError(f"select: sample {lost_id} has a picture but no vector; run the embed stage again")

    broken = pc.if_else(pc.is_valid(samples["reason"]), samples["reason"], apply_rules(samples, settings.rules))
    verdicts = Verdicts(broken.to_numpy(zero_copy_only=False).copy())
    score = scores.to_numpy(zero_copy_only=False)
    lowest = threshold(score[open_rows], settings.clip.keep)
    if lowest is not None:
        passed = verdicts.alive(np.arange(samples.num_rows))
        # Scores are float32: compared as such, 0.3 itself reaches a threshold of 0.3.
        verdicts.reason[passed[score[passed] < np.float32(lowest)]] = Reason.CLIP_SCORE.value

    drop_duplicates(verdicts, verdicts.alive(_by_preference(samples, score)), samples, vectors, place, settings.dedup)
    return _table(samples, scores, verdicts, holdout, seed)


def write_decisions(run: RunFolder, settings: SelectSettings, holdout: float, seed: int) -> dict[str, int]:
    """Decides over everything that was acquired and embedded; writes `decisions.parquet` and `select.json`.

    Returns:
        `kept`, and rows by reason over all stages so far; they add up to the source's rows.

    Raises:
        SluiceError: a part is not acquired or not embedded yet.
    """
    parts = run.parts()
    inputs = [run.output_digest(stage, part) for stage in (Stage.ACQUIRE, Stage.EMBED) for part in parts]
    if not parts or None in inputs:
        raise SluiceError("select: not every part is acquired and embedded yet; run those stages first")
    asked = settings.model_dump(include={"clip": {"keep"}, "rules": True, "dedup": True})
    key = work_key(Stage.SELECT, VERSION, [asked, holdout, seed], inputs)
    if not run.is_done(Stage.SELECT, WHOLE, key):
        samples = pa.concat_tables(
            _with_part(run.read_table("samples", [part], _SAMPLE_COLUMNS), part) for part in parts
        )
        wanted = ["sample_id", "clip_score"] + (["vector"] if settings.dedup.semantic is not None else [])
        decisions = decide(samples, run.read_table("vectors", parts, wanted), settings, holdout, seed)
        counts = _counts(decisions)
        text = json.dumps({"settings": asked, **_summary(decisions, settings), "counts": counts}, indent=1)
        outputs = {"decisions.parquet": decisions, "select.json": text.encode()}
        run.commit(Stage.SELECT, WHOLE, key, outputs, counts, version=VERSION)
    manifest = run.manifest(Stage.SELECT, WHOLE)
    return {} if manifest is None else manifest["counts"]


def _with_part(table: pa.Table, part: int) -> pa.Table:
    return table.append_column("part", pa.array(np.full(table.num_rows, part, np.int32)))


def _summary(decisions: pa.Table, settings: SelectSettings) -> dict[str, Any]:
    """The threshold that was applied and how all scores lie about it, for the report."""
    scores = decisions["clip_score"].drop_null().to_numpy()
    splits = {name: pc.sum(pc.equal(decisions["split"], name)).as_py() or 0 for name in ("train", "val")}
    return {
        "scored": len(scores),
        "threshold": threshold(scores, settings.clip.keep),
        "clip_scores": histogram(scores),
        "splits": splits,
    }


def _counts(decisions: pa.Table) -> dict[str, int]:
    dropped = decisions["reason"].drop_null().value_counts().to_pylist()
    by_reason = {entry["values"]: entry["counts"] for entry in dropped}
    return {"kept": decisions["reason"].null_count, **dict(sorted(by_reason.items()))}


def _by_preference(samples: pa.Table, score: np.ndarray) -> np.ndarray:
    """Places from best to worst: higher score, then more pixels, then earlier row."""
    width, height = (
        samples[name].fill_null(0).to_numpy().astype(np.int64) for name in ("original_width", "original_height")
    )
    return np.lexsort((samples["row"].to_numpy(), -width * height, -score))


def _splits(ids: list[str], holdout: float, seed: int) -> np.ndarray:
    """True where a sample goes to `val`. Ids are hashes; splitmix64 (Steele et al. 2014) mixes the seed in."""
    mixed = np.frombuffer(bytes.fromhex("".join(name[:16] for name in ids)), ">u8").astype(np.uint64)
    mixed = mixed + np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53) < holdout


def _table(samples: pa.Table, scores: pa.Array, verdicts: Verdicts, holdout: float, seed: int) -> pa.Table:
    reason = pa.array(verdicts.reason, pa.string())
    names, stages = pa.array([r.value for r in Reason]), pa.array([r.info.stage.value for r in Reason])
    kept = pc.is_null(reason)
    keeper = verdicts.final_keeper()
    held_out = pa.array(_splits(samples["sample_id"].to_pylist(), holdout, seed))
    split = pc.if_else(held_out, "val", "train")
    columns = {
        "sample_id": samples["sample_id"],
        "row": samples["row"],
        "part": samples["part"],
        "state": pc.if_else(kept, State.KEPT.value, State.DROPPED.value),
        "stage": stages.take(pc.index_in(reason, names)),
        "reason": reason,
        "duplicate_of": samples["sample_id"].take(pa.array(keeper, mask=keeper < 0)),
        "clip_score": scores,
        "split": pc.if_else(kept, split, pa.scalar(None, pa.string())),
    }
    return pa.table(columns, DECISIONS)
