"""Select's decisions: order of the checks, the law, independence of order and cut, and the commit."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from schemas.errors import SluiceError
from schemas.identity import sample_id
from schemas.tables import DECISIONS, SAMPLES
from stages.run_folder import RunFolder
from stages.select.decide import Decided, write_decisions
from stages.select.decide import decide as decide_all
from stages.select.settings import SelectSettings

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


def _run(folder: Path, samples: pa.Table, vectors: pa.Table, cuts: list[int]) -> RunFolder:
    run = RunFolder(folder)
    edges = [0, *cuts, samples.num_rows]
    for part, (begin, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        piece = samples.slice(begin, end - begin).select(SAMPLES.names)
        mine = vectors.filter(pc.is_in(vectors["sample_id"], piece["sample_id"].combine_chunks()))
        run.commit("source", part, "k", {f"source/{part:05d}.parquet": piece.select(["sample_id"])}, {})
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
