"""`sluice trace`: each score with the threshold it met."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from pipelines.line import Line, prepare
from pipelines.recipe import parse_recipe
from pipelines.trace import show_trace
from schemas.errors import InputError
from schemas.tables import LEDGER, MASKED
from schemas.tables import scores as scores_schema
from schemas.vocabulary import Reason
from stages.run_folder import RunFolder

REASONS = [None, "clip_score", "picture_too_small", "contaminated_text", "bad_vector", "timeout", "duplicate_exact"]
SCORES = [0.231, 0.2, 0.5, 0.1, None, None, 0.21]
SIDES = [640, 100, 63, 64, 64, None, 64]
THRESHOLDS = [
    {"name": "rules.min_side_px", "measure": "shorter_side_px", "keeps": "at_least", "value": 64.0},
    {"name": "clip.keep.min", "measure": "clip_score", "keeps": "at_least", "value": 0.21},
    {"name": "heads.marks.keep.max", "measure": "marks", "keeps": "at_most", "value": 0.5},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    prepare(Line(parse_recipe({"name": "t", "source": {"table": "t.parquet"}}, "t"), run))
    ids = [f"{row:032x}" for row in range(len(REASONS))]
    ledger = [
        {
            "sample_id": name,
            "row": row,
            "url": f"http://a/{row}",
            "caption": "a dog, x@y.org",
            "clip_score": SCORES[row],
            "state": "dropped" if reason else "kept",
            "reason": reason,
            "stage": Reason(reason).info.stage.value if reason else None,
            "duplicate_of": ids[0] if reason == "duplicate_exact" else None,
        }
        for row, (name, reason) in enumerate(zip(ids, REASONS, strict=True))
    ]
    measures = ["shorter_side_px", "clip_score", "marks"]
    columns = [pa.array(values, pa.float32()) for values in (SIDES, SCORES, [0.25] * len(ids))]
    rows = pa.array(range(len(ids)), pa.int64())
    scores = pa.table([pa.array(ids), rows, *columns], schema=scores_schema(measures))
    masked = [{"sample_id": ids[0], "caption": "a dog, [email]", "captions": ["a dog, [email]"]}]
    run.commit("ledger", 0, "k", {"ledger/00000.parquet": pa.Table.from_pylist(ledger, LEDGER)}, {})
    outputs = {"scores.parquet": scores, "masked.parquet": pa.Table.from_pylist(masked, MASKED),
               "select.json": json.dumps({"thresholds": THRESHOLDS}).encode()}  # fmt: skip
    run.commit("select", "all", "k", outputs, {})
    return run


def _told(run: RunFolder, row: int) -> list[str]:
    out = Console(file=io.StringIO(), width=200)
    show_trace(run, f"http://a/{row}", out)
    return [line.strip() for line in out.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def _selected(run: RunFolder, row: int) -> list[str]:
    return [line.removeprefix("select").strip() for line in _told(run, row) if line.startswith("select")]


def test_each_score_stands_beside_the_threshold_it_met(run: RunFolder) -> None:
    assert _selected(run, 0) == [
        "shorter_side_px 640 >= 64 kept (rules.min_side_px)",
        "clip_score 0.2310 >= 0.2100 kept (clip.keep.min)",
        "marks 0.2500 <= 0.5000 kept (heads.marks.keep.max)",
    ]
    # A score on the threshold is kept, in float32 too; dedup comes after all of them.
    assert _selected(run, 6)[1] == "clip_score 0.2100 >= 0.2100 kept (clip.keep.min)"
    assert len(_selected(run, 6)) == 3


def test_a_row_meets_no_threshold_after_the_one_that_dropped_it(run: RunFolder) -> None:
    assert _selected(run, 1)[1:] == ["clip_score 0.2000 >= 0.2100 dropped (clip.keep.min)"]
    assert _selected(run, 2) == ["shorter_side_px 63 >= 64 dropped (rules.min_side_px)"]
    assert _selected(run, 3) == ["shorter_side_px 64 >= 64 kept (rules.min_side_px)"]
    assert _selected(run, 4) == _selected(run, 5) == []


def test_the_caption_is_told_as_given_and_as_masked(run: RunFolder) -> None:
    told = _told(run, 0)
    assert "caption  a dog, x@y.org" in told and "masked  a dog, [email]" in told
    assert not any("masked" in line for line in _told(run, 1))


def test_a_run_without_thresholds_is_traced_too(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path)
    for name in ("recipe.yaml", "ledger/00000.parquet"):
        other.path(name).parent.mkdir(exist_ok=True)
        other.path(name).write_bytes(run.path(name).read_bytes())
    assert "clip score  0.2310" in _told(other, 0) and not _selected(other, 0)
    with pytest.raises(InputError, match="no row of the ledger"):
        show_trace(other, "http://nowhere", Console(file=io.StringIO()))
