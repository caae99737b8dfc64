"""Select's decisions: order of the checks, the law, independence of order and cut, and the commit."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from schemas.errors import InputError, SluiceError
from schemas.identity import sample_id
from schemas.tables import DECISIONS, SAMPLES
from schemas.tables import scores as scores_schema
from stages.run_folder import RunFolder
from stages.select.decide import decide as decide_all
from stages.select.decide import write_decisions
from stages.select.masked import read_captions
from stages.select.rules import RULES
from stages.select.settings import SelectSettings

#: The module, which its function hides.
decide_module = sys.modules[decide_all.__module__]
DIM = 16
SETTINGS = SelectSettings.model_validate(
    {
        "clip": {"keep": {"min": 0.2}},
        "rules": {"min_side_px": 32, "boilerplate": True},
        "dedup": {"exact": True, "perceptual": {"max_hamming": 6}, "semantic": {"min_cosine": 0.96}},
    }
)


def decide(*arguments) -> pa.Table:
    return decide_all(*arguments).decisions


def _world(count: int, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Samples that are all different and all good, with their vectors."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "key": f"{row:09d}", "url": f"http://a/{row}.jpg", "caption": f"a thing of kind {row}", "status": "success",
            "width": 64, "height": 64, "original_width": 100, "original_height": 100 + row % 7,
            "sha256": f"{row:064x}", "sample_id": sample_id(f"http://a/{row}.jpg", "c"), "row": row,
            "http_status": 200, "phash": f"{rng.integers(0, 1 << 64, dtype=np.uint64):016x}",
        }
        for row in range(count)
    ]  # fmt: skip
    samples = pa.Table.from_pylist(rows, SAMPLES)
    vectors = rng.normal(size=(count, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return _with(samples, part=np.zeros(count, np.int32)), _vectors(samples, rng.uniform(0.25, 0.4, count), vectors)


def _vectors(samples: pa.Table, scores: np.ndarray, vectors: np.ndarray) -> pa.Table:
    flat = pa.array(vectors.astype(np.float16).ravel())
    columns = [samples["sample_id"], pa.array(scores, pa.float32()), pa.FixedSizeListArray.from_arrays(flat, DIM)]
    return pa.table(columns, ["sample_id", "clip_score", "vector"])


def _with(table: pa.Table, **columns) -> pa.Table:
    for name, values in columns.items():
        there = name in table.column_names
        array = pa.array(values, table.schema.field(name).type if there else None)
        table = (
            table.set_column(table.column_names.index(name), name, array) if there else table.append_column(name, array)
        )
    return table


def _edit(table: pa.Table, name: str, **changes) -> pa.Table:
    """`changes`: r3="x" puts x in row 3."""
    values = table[name].to_pylist()
    for row, value in changes.items():
        values[int(row[1:])] = value
    return _with(table, **{name: values})


def _flip(phash: str, bits: int) -> str:
    return f"{int(phash, 16) ^ ((1 << bits) - 1):016x}"


def _planted() -> tuple[pa.Table, pa.Table]:
    """Twelve samples with one of each fate, and two that are dropped before select."""
    samples, vectors = _world(12)
    hashes = samples["phash"].to_pylist()
    samples = _edit(samples, "reason", r0="bad_row", r1="timeout")
    samples = _edit(samples, "original_width", r2=31)
    samples = _edit(samples, "caption", r3="IMG_0003.jpg")
    samples = _edit(samples, "sha256", r6=samples["sha256"][5].as_py())
    samples = _edit(samples, "phash", r8=_flip(hashes[7], 6), r9=_flip(hashes[7], 7))
    matrix = np.array(vectors["vector"].to_pylist(), np.float64)
    matrix[11] = matrix[10] + 0.01
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    scores = np.linspace(0.4, 0.3, 12)
    scores[4] = 0.19
    vectors = _vectors(samples, scores, matrix)
    return samples, vectors.filter(pc.is_null(samples["reason"]))


def test_every_planted_fate_is_found() -> None:
    samples, vectors = _planted()
    decisions = decide(samples, vectors, SETTINGS, 0.0, 0)
    assert decisions.schema == DECISIONS
    ids = samples["sample_id"].to_pylist()
    assert decisions["reason"].to_pylist() == [
        "bad_row", "timeout", "picture_too_small", "caption_boilerplate", "clip_score", None,
        "duplicate_exact", None, "duplicate_perceptual", None, None, "duplicate_semantic",
    ]  # fmt: skip
    assert decisions["stage"].to_pylist()[:5] == ["source", "acquire", "select", "select", "select"]
    keepers = {place: ids.index(name) for place, name in enumerate(decisions["duplicate_of"].to_pylist()) if name}
    assert keepers == {6: 5, 8: 7, 11: 10}
    assert decisions["split"].to_pylist()[5] == "train"
    assert decisions["split"].to_pylist()[6] is None
    assert decisions["clip_score"].null_count == 2


def test_the_better_one_of_a_pair_is_kept() -> None:
    samples, vectors = _world(3)
    samples = _with(samples, sha256=["same"] * 3, original_height=[100, 100, 101])
    assert decide(samples, _with(vectors, clip_score=[0.3, 0.4, 0.3]), SETTINGS, 0, 0)["state"].to_pylist()[1] == "kept"
    assert decide(samples, _with(vectors, clip_score=[0.3] * 3), SETTINGS, 0, 0)["state"].to_pylist()[2] == "kept"
    same = _with(samples, original_height=[100] * 3)
    assert decide(same, _with(vectors, clip_score=[0.3] * 3), SETTINGS, 0, 0)["state"].to_pylist()[0] == "kept"


def test_duplicate_of_is_kept_even_where_kinds_of_dedup_follow_each_other() -> None:
    samples, vectors = _world(3)
    samples = _edit(samples, "sha256", r2=samples["sha256"][1].as_py())  # 2 goes for 1, which goes for 0
    samples = _edit(samples, "phash", r1=_flip(samples["phash"][0].as_py(), 1))
    decisions = decide(samples, _with(vectors, clip_score=[0.4, 0.35, 0.3]), SETTINGS, 0, 0)
    assert decisions["reason"].to_pylist() == [None, "duplicate_perceptual", "duplicate_exact"]
    assert decisions["duplicate_of"].to_pylist()[1:] == [samples["sample_id"][0].as_py()] * 2


def test_top_share_counts_over_all_scored_samples() -> None:
    samples, vectors = _world(10)
    settings = SelectSettings.model_validate({"clip": {"keep": {"top": 0.3}}})
    decisions = decide(samples, _with(vectors, clip_score=np.arange(10) / 10), settings, 0, 0)
    assert decisions["state"].to_pylist() == ["dropped"] * 7 + ["kept"] * 3
    assert set(decisions["reason"].to_pylist()[:7]) == {"clip_score"}


def test_a_score_on_the_threshold_is_kept() -> None:
    samples, vectors = _world(2)
    settings = SelectSettings.model_validate({"clip": {"keep": {"min": 0.3}}})
    decisions = decide(samples, _with(vectors, clip_score=[0.3, 0.2999]), settings, 0, 0)
    assert decisions["state"].to_pylist() == ["kept", "dropped"]


def test_decisions_do_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(3)
    samples, vectors = _world(300)
    sources = rng.integers(0, 300, 300)
    for name in ("sha256", "phash"):
        column = samples[name].to_pylist()
        samples = _with(samples, **{name: [column[s if s % 3 else row] for row, s in enumerate(sources)]})
    expected = decide(samples, vectors, SETTINGS, 0.2, 0)
    assert pc.sum(pc.equal(expected["state"], "dropped")).as_py() > 50
    shuffled = samples.take(rng.permutation(300)), vectors.take(rng.permutation(300))
    assert decide(*shuffled, SETTINGS, 0.2, 0).equals(expected)


def test_the_holdout_follows_id_and_seed() -> None:
    samples, vectors = _world(4000)
    settings = SelectSettings.model_validate({})
    first = decide(samples, vectors, settings, 0.1, 0)["split"]
    assert pc.sum(pc.equal(first, "val")).as_py() == pytest.approx(400, abs=80)
    assert decide(samples, vectors, settings, 0.1, 1)["split"] != first
    smaller = decide(samples.slice(0, 1000), vectors, settings, 0.1, 0)["split"]
    assert smaller == first.slice(0, 1000)
    assert decide(samples, vectors, settings, 0.0, 0)["split"].unique().to_pylist() == ["train"]


def test_a_sample_without_a_vector_stops_the_run() -> None:
    samples, vectors = _world(3)
    with pytest.raises(SluiceError, match="has a picture but no vector"):
        decide(samples, vectors.slice(1), SETTINGS, 0, 0)


def test_nothing_left_is_no_error() -> None:
    samples, vectors = _world(2)
    decisions = decide(_with(samples, reason=["timeout", "bad_row"]), vectors.slice(0, 0), SETTINGS, 0.5, 0)
    assert decisions["reason"].to_pylist() == ["timeout", "bad_row"]


def test_vectors_that_are_none_are_bad_vectors() -> None:
    samples, vectors = _world(7)
    matrix = np.array(vectors["vector"].to_pylist(), np.float64)
    matrix[1], matrix[2, 3], matrix[3, 0] = 0, np.nan, np.inf
    scores = [0.3, 0.3, 0.3, 0.3, np.nan, None, 0.3]
    vectors = _vectors(samples, scores, matrix)
    reason = decide(samples, vectors, SETTINGS, 0, 0)["reason"].to_pylist()
    assert reason == [None, *["bad_vector"] * 5, None]
    read_less = decide(samples, vectors.drop_columns("vector"), SelectSettings(), 0, 0)["reason"].to_pylist()
    assert read_less == [None, None, None, None, "bad_vector", "bad_vector", None]
    dropped = _with(samples, reason=[None, "timeout", *[None] * 5])
    assert decide(dropped, vectors, SETTINGS, 0, 0)["reason"].to_pylist()[1] == "timeout"


def test_a_bad_vector_moves_no_threshold() -> None:
    samples, vectors = _world(10)
    settings = SelectSettings.model_validate({"clip": {"keep": {"top": 0.5}}})
    decided = decide_all(samples, _with(vectors, clip_score=[np.nan, np.inf, *np.arange(8) / 10]), settings, 0, 0)
    assert decided.decisions["reason"].to_pylist() == [*["bad_vector"] * 2, *["clip_score"] * 4, *[None] * 4]
    assert decided.thresholds[0].value == pytest.approx(0.4)


def test_every_threshold_says_what_reached_it_and_what_it_dropped() -> None:
    samples, vectors = _planted()
    decided = decide_all(samples, vectors, SETTINGS, 0.0, 0)
    assert [asked.to_row() for asked in decided.thresholds] == [
        {"name": "rules.min_side_px", "measure": "shorter_side_px", "keeps": "at_least", "value": 32.0,
         "reason": "picture_too_small", "reached": 10, "dropped": 1},
        {"name": "rules.boilerplate", "measure": "caption_boilerplate", "keeps": "at_most", "value": 0.0,
         "reason": "caption_boilerplate", "reached": 9, "dropped": 1},
        {"name": "clip.keep.min", "measure": "clip_score", "keeps": "at_least", "value": 0.2,
         "reason": "clip_score", "reached": 8, "dropped": 1},
    ]  # fmt: skip
    scores = decided.scores
    assert scores.schema == scores_schema(["caption_boilerplate", "clip_score", "shorter_side_px"])
    assert scores["row"].to_pylist() == list(range(12))
    assert scores["shorter_side_px"].to_pylist()[:3] == [100, 100, 31]
    assert scores["clip_score"].null_count == 2
    # What the scores and thresholds say is what was decided.
    expected = pc.if_else(pc.less(scores["clip_score"], pa.scalar(0.2, pa.float32())), "clip_score", None)
    assert expected.to_pylist()[4] == decided.decisions["reason"].to_pylist()[4] == "clip_score"


def test_rows_that_are_all_alike_are_kept_or_go_together() -> None:
    samples, vectors = _world(6)
    one = np.ones((6, DIM)) / 4
    same = {name: [samples[name][0].as_py()] * 6 for name in ("caption", "phash", "sha256", "original_height")}
    for top in (0.01, 0.5, 1.0):
        asked = {"clip": {"keep": {"top": top}}, "rules": {"max_caption_repeats": 1}, "dedup": {"exact": False}}
        settings = SelectSettings.model_validate(asked)
        alike = _vectors(samples, np.full(6, 0.3), one)
        assert set(decide(_with(samples, **same), alike, settings, 0, 0)["state"].to_pylist()) == {"kept"}
    for dedup in ({}, {"exact": False, "perceptual": {}}, {"exact": False, "semantic": {}}):
        settings = SelectSettings.model_validate({"dedup": dedup})
        decisions = decide(_with(samples, **same), alike, settings, 0, 0)
        assert decisions["state"].to_pylist() == ["kept", *["dropped"] * 5]
        assert set(decisions["duplicate_of"].to_pylist()[1:]) == {samples["sample_id"][0].as_py()}


def test_captions_that_hold_personal_data_are_masked_or_dropped() -> None:
    samples, vectors = _world(3)
    captions = [["a dog, call 202-555-0143", "b"], ["a cat"], ["x@y.org"]]
    samples = _with(samples, caption=[given[0] for given in captions], captions=captions)
    samples = _edit(samples, "reason", r2="timeout")
    settings = SelectSettings.model_validate({"rules": {"personal_data": "mask"}})
    decided = decide_all(samples, vectors.slice(0, 2), settings, 0, 0)
    assert decided.decisions["reason"].to_pylist() == [None, None, "timeout"]
    assert decided.masked.to_pylist() == [
        {"sample_id": samples["sample_id"][0].as_py(), "caption": "a dog, call [telephone]",
         "captions": ["a dog, call [telephone]", "b"]}
    ]  # fmt: skip
    drop = SelectSettings.model_validate({"rules": {"personal_data": "drop"}})
    decided = decide_all(samples, vectors.slice(0, 2), drop, 0, 0)
    assert decided.decisions["reason"].to_pylist() == ["personal_data", None, "timeout"]
    assert decided.masked.num_rows == 0


def _run(folder: Path, samples: pa.Table, vectors: pa.Table, cuts: list[int]) -> RunFolder:
    run = RunFolder(folder)
    edges = [0, *cuts, samples.num_rows]
    for part, (begin, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        piece = samples.slice(begin, end - begin).select(SAMPLES.names)
        mine = vectors.filter(pc.is_in(vectors["sample_id"], piece["sample_id"].combine_chunks()))
        captions = pa.array([[caption] for caption in piece["caption"].to_pylist()], pa.list_(pa.string()))
        source = piece.select(["sample_id", "caption"]).append_column("captions", captions)
        run.commit("source", part, "k", {f"source/{part:05d}.parquet": source}, {})
        run.commit("acquire", part, "k", {f"samples/{part:05d}.parquet": piece}, {})
        run.commit("embed", part, "k", {f"vectors/{part:05d}.parquet": mine}, {})
    return run


def test_every_source_row_stands_once_however_the_source_was_cut(tmp_path: Path) -> None:
    samples, vectors = _planted()
    tables = []
    for name, cuts in [
        ("one", []),
        ("three", [3, 9]),
        ("bad_part", [2]),
    ]:  # the last begins with a part without vectors
        run = _run(tmp_path / name, samples, vectors, cuts)
        counts = write_decisions(run, SETTINGS, 0.3, 0)
        table = pq.read_table(run.path("decisions.parquet"))
        assert table["row"].to_pylist() == list(range(12))
        assert sum(counts.values()) == 12
        assert counts["kept"] == 4
        assert counts["timeout"] == 1
        assert set(table["part"].to_pylist()) == set(range(len(cuts) + 1))
        tables.append(table.drop_columns("part"))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_the_commit_is_made_again_only_when_something_changed(tmp_path: Path) -> None:
    samples, vectors = _planted()
    run = _run(tmp_path, samples, vectors, [6])
    counts = write_decisions(run, SETTINGS, 0.0, 0)
    path = run.path("decisions.parquet")
    written, content = path.stat().st_mtime_ns, path.read_bytes()
    assert write_decisions(run, SETTINGS, 0.0, 0) == counts
    assert path.stat().st_mtime_ns == written
    path.unlink()
    write_decisions(run, SETTINGS, 0.0, 0)
    assert path.read_bytes() == content

    summary = json.loads(run.path("select.json").read_text())
    assert summary["threshold"] == 0.2
    assert summary["scored"] == 10
    assert sum(summary["clip_scores"]["counts"]) == 10
    assert summary["counts"] == counts
    assert summary["splits"] == {"train": 4, "val": 0}

    loose = SelectSettings.model_validate({})
    assert write_decisions(run, loose, 0.0, 0)["kept"] == 9
    run.path("manifests", "embed", "00001.json").unlink()
    with pytest.raises(SluiceError, match="not every part"):
        write_decisions(run, loose, 0.0, 0)


def test_a_threshold_that_keeps_nothing_says_so_and_leaves_its_figures(tmp_path: Path) -> None:
    samples, vectors = _planted()
    run = _run(tmp_path, samples, vectors, [6])
    settings = SelectSettings.model_validate({"clip": {"keep": {"min": 0.9}}, "rules": {"min_side_px": 32}})
    for _ in range(2):  # also where the decisions are there already
        with pytest.raises(InputError) as told:
            write_decisions(run, settings, 0.0, 0)
    assert str(told.value) == (
        "select keeps none of the 10 rows that reach it (clip_score 9, picture_too_small 1); rules.min_side_px "
        "(shorter_side_px >= 32) drops 1 of the 10 rows that reach it; clip.keep.min (clip_score >= 0.9) drops 9 of "
        "the 9 rows that reach it; change what the recipe's section select asks for, and start again"
    )
    assert json.loads(run.path("select.json").read_text())["thresholds"][1]["dropped"] == 9
    assert write_decisions(run, SETTINGS, 0.0, 0)["kept"] == 4


def test_where_nothing_reaches_select_it_keeps_nothing_and_is_no_error(tmp_path: Path) -> None:
    samples, vectors = _world(4)
    run = _run(tmp_path, _with(samples, reason=["timeout"] * 4), vectors.slice(0, 0), [2])
    assert write_decisions(run, SETTINGS, 0.0, 0) == {"kept": 0, "timeout": 4}


def test_an_empty_part_changes_nothing(tmp_path: Path) -> None:
    samples, vectors = _planted()
    rules = {"personal_data": "mask", "languages": ["en"], "max_caption_repeats": 3}
    mask = SelectSettings.model_validate({"rules": rules, "dedup": {"semantic": {}}})
    tables = []
    for name, cuts in (("whole", [6]), ("empty", [0, 6, 6])):
        run = _run(tmp_path / name, samples, vectors, cuts)
        write_decisions(run, mask, 0.0, 0)
        tables.append([pq.read_table(run.path(f"{name}.parquet")) for name in ("decisions", "scores", "masked")])
    assert tables[0][0].drop_columns("part") == tables[1][0].drop_columns("part")
    assert tables[0][1:] == tables[1][1:]


def test_a_threshold_that_drops_most_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples, vectors = _planted()
    run = _run(tmp_path, samples, vectors, [6])
    with caplog.at_level("WARNING", "sluice"):
        write_decisions(run, SETTINGS, 0.0, 0)
        assert not caplog.messages
        write_decisions(run, SelectSettings.model_validate({"clip": {"keep": {"top": 0.3}}}), 0.0, 0)
    (told,) = caplog.messages
    assert told.startswith("select: clip.keep.top (clip_score >= 0.3") and told.endswith(
        "drops 7 of the 10 rows that reach it"
    )


def test_later_stages_read_the_masked_captions(tmp_path: Path) -> None:
    samples, vectors = _world(5)
    said = ["a dog", "mail x@y.org", "a cat", "a bird", "call +1 202-555-0143"]
    run = _run(tmp_path, _with(samples, caption=said), vectors, [3])
    assert read_captions(run, 0)["caption"].to_pylist() == said[:3]
    write_decisions(run, SelectSettings.model_validate({"rules": {"personal_data": "mask"}}), 0.0, 0)
    assert json.loads(run.path("select.json").read_text())["masked"] == 2
    read = [read_captions(run, part) for part in (0, 1)]
    assert read[0]["caption"].to_pylist() == ["a dog", "mail [email]", "a cat"]
    assert read[1]["captions"].to_pylist() == [["a bird"], ["call [telephone]"]]
    assert read[1]["sample_id"].to_pylist() == samples["sample_id"].to_pylist()[3:]
    write_decisions(run, SETTINGS, 0.0, 0)
    assert read_captions(run, 0)["caption"].to_pylist() == said[:3]


OUTPUTS = ("decisions.parquet", "scores.parquet", "masked.parquet", "select.json")
MEASURED = {"languages": ["en"], "max_caption_repeats": 3, "personal_data": "mask", "min_caption_words": 2}


def _asked(lowest: float, **rules) -> SelectSettings:
    return SelectSettings.model_validate({"clip": {"keep": {"min": lowest}}, "rules": {**MEASURED, **rules}})


def _measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the rules that measure from now on, and `mask` where captions are masked."""
    told: list[str] = []

    def watched(name, function):
        return lambda *arguments: told.append(name) or function(*arguments)

    for name, rule in RULES.items():
        monkeypatch.setattr(rule, "measured", staticmethod(watched(name, rule.measured)))
    monkeypatch.setattr(decide_module, "mask_captions", watched("mask", decide_module.mask_captions))
    return told


def test_another_threshold_measures_nothing_again_and_gives_what_a_new_run_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, vectors = _planted()
    samples = _edit(samples, "caption", r5="mail me@x.org, a dog", r7="Der Hund sitzt auf dem Tisch")
    run, fresh = (_run(tmp_path / name, samples, vectors, [6]) for name in ("run", "fresh"))
    write_decisions(run, _asked(0.2), 0.0, 0)
    told = _measured(monkeypatch)
    write_decisions(run, _asked(0.35), 0.0, 0)
    assert told == []
    write_decisions(fresh, _asked(0.35), 0.0, 0)
    assert told == ["min_caption_words", "languages", "max_caption_repeats", "mask"]
    for name in OUTPUTS:
        assert run.path(name).read_bytes() == fresh.path(name).read_bytes()
    assert pq.read_table(run.path("masked.parquet")).num_rows == 1


def test_what_a_measure_depends_on_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, vectors = _planted()
    run = _run(tmp_path, samples, vectors, [6])
    write_decisions(run, _asked(0.2), 0.0, 0)
    told = _measured(monkeypatch)
    write_decisions(run, _asked(0.2, languages=["en", "de"], min_caption_words=1, max_aspect=9.0), 0.0, 0)
    assert told == ["max_aspect", "languages"]
    told.clear()
    # A commit that was killed left scores that no manifest vouches for.
    run.path("scores.parquet").write_bytes(run.path("decisions.parquet").read_bytes())
    write_decisions(run, _asked(0.25), 0.0, 0)
    assert told == ["min_caption_words", "languages", "max_caption_repeats"]
    told.clear()
    piece = samples.slice(0, 6).select(SAMPLES.names)
    other = piece.set_column(piece.column_names.index("caption"), "caption", pa.array(["a dog"] * 6))
    run.commit("acquire", 0, "k", {"samples/00000.parquet": other}, {})
    write_decisions(run, _asked(0.25), 0.0, 0)
    assert told == ["min_caption_words", "languages", "max_caption_repeats", "mask"]
