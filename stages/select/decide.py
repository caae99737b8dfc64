"""Select's word on every source row: kept, or dropped by whom, why, and in favour of what."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError, SluiceError
from schemas.tables import DECISIONS, MASKED
from schemas.tables import scores as scores_schema
from schemas.vocabulary import Reason, Stage, State
from stages.embed import embed_stage, vectors_folder
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.select.candidates import Candidates, Threshold
from stages.select.contamination import ask_contamination
from stages.select.dedup import Earlier, drop_duplicates, read_earlier
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS
from stages.select.evaluation_sets import Held, read_sets
from stages.select.heads import ask_heads
from stages.select.inputs import content_of, models_of, read_references
from stages.select.known import Known, measured_from, read_known
from stages.select.rules import asked_rules, mask_captions
from stages.select.score import ask_clip, histogram
from stages.select.settings import SelectSettings
from stages.select.strategies import References

VERSION = 2
_SAMPLE_COLUMNS = [
    "sample_id", "row", "url", "caption", "original_width", "original_height",
    "sha256", "pixels_sha256", "phash", "text_only", "reason",
]  # fmt: skip
_REASONS = [reason.value for reason in Reason if reason.info.stage is Stage.SELECT]

log = logging.getLogger("sluice")


@dataclass(frozen=True)
class Decided:
    """What select says.

    Attributes:
        decisions: `schemas.tables.DECISIONS`, by `row`. `duplicate_of` is a sample that is kept.
        scores: `schemas.tables.scores(...)`, by `row`: every measure that a threshold stands on.
        masked: `schemas.tables.MASKED`: the captions of samples that held personal data, where it is masked.
        contamination: `schemas.tables.CONTAMINATION`: every sample that is near an evaluation set.
        thresholds: in the order in which they were asked.
    """

    decisions: pa.Table
    scores: pa.Table
    masked: pa.Table
    contamination: pa.Table
    thresholds: list[Threshold]


def decide(
    samples: pa.Table,
    vectors: pa.Table | Mapping[str, pa.Table],
    settings: SelectSettings,
    holdout: float,
    seed: int,
    references: References | None = None,
    known: Known | None = None,
    held: Sequence[Held] = (),
    earlier: Earlier | None = None,
) -> Decided:
    """Decides on every row; depends on the rows alone, not on their order or how they were cut into parts.

    Applied in order, and the first reason stands: what earlier stages dropped, vectors that are none, rules,
    decontamination, the CLIP score, heads, the strategy, then exact, perceptual and semantic dedup. Rows that are
    `text_only` are kept. Of duplicates the one with the higher CLIP score is kept, then the one with more pixels, then
    the earlier row; what earlier runs kept is kept before all of them.

    Args:
        samples: `schemas.tables.SAMPLES` with a column `part` (int32) and, for personal data, the source's
            `captions`; other columns than those used may be missing.
        vectors: `schemas.tables.vectors(dim)`: a row for each sample whose `reason` is null. The column `vector` is
            read for semantic dedup only, and held to be a vector where it is there. Of several models, by name; the
            one that `select.clip` names is "".
        holdout: share of the kept samples that goes to `val`, by a hash of the sample's id.
        seed: draws another holdout.
        references: what a strategy compares pictures with.
        known: what need not be measured again.
        held: evaluation sets.
        earlier: what earlier runs kept, with the columns that dedup compares.

    Raises:
        SluiceError: a sample whose `reason` is null has no vector.
        InputError: a head or a list of concepts cannot be read, or does not fit.
    """
    rows = Candidates.of(samples, vectors if isinstance(vectors, Mapping) else {"": vectors})
    bad = _bad_vectors(rows)
    rows.measure("clip_score", np.where(bad, np.float32(np.nan), rows.scores()))
    rows.drop(bad, Reason.BAD_VECTOR)
    known = known or Known()
    rows.measures.update(known.measures)
    for rule, limit in asked_rules(settings.rules):
        if rule.measure not in rows.measures:
            rows.measure(rule.measure, rule.measured(rows.samples, limit))
        rows.ask(f"rules.{rule.name}", rule.measure, rule.keeps, rule.bound(limit), rule.reason)
    contamination = ask_contamination(rows, held)
    ask_clip(rows, settings.clip.keep)
    ask_heads(rows, settings.heads)
    settings.strategy.ask(rows, f"strategy.{settings.strategy.name()}", references or {})
    places = _by_preference(rows)
    places = places[rows.alive()[places]]
    row_of = pa.array(place := rows.places_in(), mask=place < 0)
    drop_duplicates(rows.verdicts, places, rows.samples, rows.vectors[""], row_of, settings.dedup, earlier)

    if settings.rules.personal_data != "mask":  # type: ignore[attr-defined]
        masked = MASKED.empty_table()
    elif known.masked is not None:
        masked = known.masked
    else:
        masked = mask_captions(rows.samples.filter(pc.is_null(rows.samples["reason"])))
    before = pa.array([], pa.string()) if earlier is None else earlier.samples["sample_id"].combine_chunks()
    return Decided(_decisions(rows, before, holdout, seed), _scores(rows), masked, contamination, rows.thresholds)


def write_decisions(run: RunFolder, settings: SelectSettings, holdout: float, seed: int) -> dict[str, int]:
    """Decides over everything that was acquired and embedded.

    Writes `decisions.parquet`, `scores.parquet`, `masked.parquet`, `contamination.parquet` and `select.json`. Warns of
    each threshold that drops more than half of what reaches it.

    Returns:
        `kept`, and rows by reason over all stages so far; they add up to the source's rows.

    Raises:
        SluiceError: a part is not acquired or not embedded yet.
        InputError: rows reached select, and it keeps none.
    """
    parts = run.parts()
    embedded = [embed_stage(name) for name in models_of(settings)]
    stages = [(stage, part) for stage in (Stage.SOURCE, Stage.ACQUIRE, *embedded) for part in parts]
    inputs = run.map(lambda each: run.output_digest(*each), stages)
    if not parts or None in inputs:
        raise SluiceError("select: not every part is acquired and embedded yet; run those stages first")
    key = work_key(Stage.SELECT, VERSION, [asked_of(settings), content_of(settings), holdout, seed], inputs)
    _forget_stream(run)
    if not run.is_done(Stage.SELECT, WHOLE, key):
        measured = measured_from(settings.rules, inputs[: 2 * len(parts)])
        vectors, references = read_vectors(run, parts, settings), read_references(run, settings)
        decided = decide(
            read_samples(run, parts, settings), vectors, settings, holdout, seed, references,
            read_known(run, measured), read_sets(run, settings.decontaminate, settings.clip),
            earlier_runs(run, settings),
        )  # fmt: skip
        commit_whole(run, key, settings, decided, measured_from=measured)
    return tell(run)


def commit_whole(run: RunFolder, key: str, settings: SelectSettings, decided: Decided, **more: Any) -> None:
    """Commits what was decided of all rows; see `write_decisions`."""
    counts = count_reasons(decided.decisions)
    text = json.dumps({"settings": asked_of(settings), **_summary(decided), "counts": counts}, indent=1)
    outputs = {
        "decisions.parquet": decided.decisions,
        "scores.parquet": decided.scores,
        "masked.parquet": decided.masked,
        "contamination.parquet": decided.contamination,
        "select.json": text.encode(),
    }
    run.commit(Stage.SELECT, WHOLE, key, outputs, counts, version=VERSION, **more)


def tell(run: RunFolder) -> dict[str, int]:
    """The counts of `write_decisions`; says which threshold drops most of what reaches it.

    Raises:
        InputError: rows reached select, and it keeps none.
    """
    counts = (run.manifest(Stage.SELECT, WHOLE) or {"counts": {}})["counts"]
    _tell(json.loads(run.path("select.json").read_text())["thresholds"], counts)
    return counts


def asked_of(settings: SelectSettings) -> dict[str, Any]:
    """The settings that decisions depend on, JSON-able; of models, their vectors say enough."""
    sections: dict[str, Any] = {name: True for name in SelectSettings.model_fields if name not in ("clip", "models")}
    return settings.model_dump(mode="json", include={**sections, "clip": {"keep"}})


def _bad_vectors(rows: Candidates) -> np.ndarray:
    """bool [rows]: the score is missing or not a number, or the vector is not a number or zero, where it is there."""
    vectors = rows.vectors[""]
    score = vectors["clip_score"].combine_chunks().to_numpy(zero_copy_only=False)
    bad = ~np.isfinite(score)
    if "vector" in vectors.column_names:
        # Of a float16 without its sign, the bits grow with the number; infinity and NaN are from 0x7C00 on.
        largest = [
            (chunk.flatten().to_numpy().view(np.uint16).reshape(len(chunk), -1) & 0x7FFF).max(axis=1)
            for chunk in vectors["vector"].chunks
            if len(chunk)
        ]
        whole = np.concatenate([np.empty(0, np.uint16), *largest])
        bad |= (whole == 0) | (whole >= 0x7C00)
    place = rows.places_in()
    return (place >= 0) & np.append(bad, False)[place]


def read_samples(run: RunFolder, parts: list[int], settings: SelectSettings) -> pa.Table:
    """The parts' samples with the columns that `decide` needs."""
    near = FINGERPRINT_COLUMNS if any(one.pictures for one in settings.decontaminate) else []
    columns = list(dict.fromkeys([*_SAMPLE_COLUMNS, *settings.dedup.columns(), *near]))
    samples = pa.concat_tables(_with_part(run.read_table("samples", [part], columns), part) for part in parts)
    asked = settings.rules.personal_data or any(one.questions for one in settings.decontaminate)  # type: ignore[attr-defined]
    if not asked:
        return samples
    source = run.read_table("source", parts, ["sample_id", "captions"]).combine_chunks()
    place = pc.index_in(samples["sample_id"].combine_chunks(), source["sample_id"].combine_chunks())
    return samples.append_column("captions", source["captions"].take(place))


def read_vectors(run: RunFolder, parts: list[int], settings: SelectSettings) -> dict[str, pa.Table]:
    """The parts' vectors, or scores alone where that is enough, by model as `decide` takes them."""
    scores = ["sample_id", "clip_score"]
    return {
        name: run.read_table(vectors_folder(name), parts, [*scores, "vector"] if whole else scores)
        for name, whole in models_of(settings).items()
    }


def earlier_runs(run: RunFolder, settings: SelectSettings) -> Earlier | None:
    """What the runs of `select.dedup.against` kept."""
    clip = None if settings.dedup.semantic is None else settings.clip
    return read_earlier(run, settings.dedup.against, settings.dedup.columns(), clip)


def _forget_stream(run: RunFolder) -> None:
    """Lets what a stream decided part by part no longer count: where it does, the stages after select read that."""
    manifests = list(run.path("manifests", Stage.SELECT).glob("[0-9]*.json"))
    if manifests:
        log.warning("select: without --stream, this run is decided anew over all its parts at once")
    for manifest in manifests:
        manifest.unlink()


def _tell(thresholds: list[dict[str, Any]], counts: dict[str, int]) -> None:
    """Says which threshold drops most of what reaches it.

    Raises:
        InputError: rows reached select, and it keeps none.
    """
    dropped = {name: number for name, number in counts.items() if name in _REASONS}
    if dropped and not counts["kept"]:
        by = "; ".join(_said(asked) for asked in thresholds if asked["dropped"])
        raise InputError(
            f"select keeps none of the {sum(dropped.values()):,} rows that reach it "
            f"({', '.join(f'{name} {number:,}' for name, number in dropped.items())}){'; ' if by else ''}{by}; "
            "change what the recipe's section select asks for, and start again"
        )
    for asked in thresholds:
        if 2 * asked["dropped"] > asked["reached"]:
            log.warning("select: %s", _said(asked))


def _said(asked: dict[str, Any]) -> str:
    sign = ">=" if asked["keeps"] == "at_least" else "<="
    return (f"{asked['name']} ({asked['measure']} {sign} {asked['value']:g}) drops {asked['dropped']:,} of the "
            f"{asked['reached']:,} rows that reach it")  # fmt: skip


def _with_part(table: pa.Table, part: int) -> pa.Table:
    return table.append_column("part", pa.array(np.full(table.num_rows, part, np.int32)))


def _summary(decided: Decided) -> dict[str, Any]:
    """The thresholds that were applied and how all CLIP scores lie about theirs, for the report."""
    scores = decided.scores["clip_score"].drop_null().to_numpy()
    splits = {name: pc.sum(pc.equal(decided.decisions["split"], name)).as_py() or 0 for name in ("train", "val")}
    clip = [asked.value for asked in decided.thresholds if asked.measure == "clip_score"]
    return {
        "scored": len(scores),
        "threshold": clip[0] if clip else None,
        "clip_scores": histogram(scores),
        "splits": splits,
        "masked": pc.sum(_kept_in(decided)).as_py() or 0,
        "thresholds": [asked.to_row() for asked in decided.thresholds],
    }


def _kept_in(decided: Decided) -> pa.ChunkedArray:
    """Of each row whether it is kept with its captions masked."""
    kept = pc.is_null(decided.decisions["reason"])
    return pc.and_(kept, pc.is_in(decided.decisions["sample_id"], decided.masked["sample_id"].combine_chunks()))


def count_reasons(decisions: pa.Table) -> dict[str, int]:
    """`kept`, and rows by reason."""
    dropped = decisions["reason"].drop_null().value_counts().to_pylist()
    by_reason = {entry["values"]: entry["counts"] for entry in dropped}
    return {"kept": decisions["reason"].null_count, **dict(sorted(by_reason.items()))}


def _by_preference(rows: Candidates) -> np.ndarray:
    """Places from best to worst: higher score, then more pixels, then earlier row."""
    width, height = (
        rows.samples[name].fill_null(0).to_numpy().astype(np.int64) for name in ("original_width", "original_height")
    )
    return np.lexsort((np.arange(len(rows)), -width * height, -rows.measures["clip_score"]))


def _splits(ids: list[str], holdout: float, seed: int) -> np.ndarray:
    """True where a sample goes to `val`. Ids are hashes; splitmix64 (Steele et al. 2014) mixes the seed in."""
    mixed = np.frombuffer(bytes.fromhex("".join(name[:16] for name in ids)), ">u8").astype(np.uint64)
    mixed = mixed + np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53) < holdout


def _decisions(rows: Candidates, before: pa.Array, holdout: float, seed: int) -> pa.Table:
    """`before`: the ids of what earlier runs kept, whose places come after those of `rows`."""
    samples = rows.samples
    reason = pa.array(rows.verdicts.reason, pa.string())
    names, stages = pa.array([r.value for r in Reason]), pa.array([r.info.stage.value for r in Reason])
    kept = pc.is_null(reason)
    keeper = rows.verdicts.final_keeper()
    held_out = pa.array(_splits(samples["sample_id"].to_pylist(), holdout, seed))
    split = pc.if_else(held_out, "val", "train")
    columns = {
        "sample_id": samples["sample_id"],
        "row": samples["row"],
        "part": samples["part"],
        "state": pc.if_else(kept, State.KEPT.value, State.DROPPED.value),
        "stage": stages.take(pc.index_in(reason, names)),
        "reason": reason,
        "duplicate_of": pa.chunked_array([*samples["sample_id"].chunks, before], pa.string()).take(
            pa.array(keeper, mask=keeper < 0)
        ),
        "clip_score": _column(rows.measures["clip_score"]),
        "split": pc.if_else(kept, split, pa.scalar(None, pa.string())),
    }
    return pa.table(columns, DECISIONS)


def _scores(rows: Candidates) -> pa.Table:
    measures = {name: _column(rows.measures[name]) for name in sorted(rows.measures)}
    columns = {"sample_id": rows.samples["sample_id"], "row": rows.samples["row"], **measures}
    return pa.table(columns, scores_schema(list(measures)))


def _column(measure: np.ndarray) -> pa.Array:
    return pa.array(measure, pa.float32(), from_pandas=True)
