"""The ledger: one row for every source row from whichever stages have run, and a law that notices every breach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import LawError
from schemas.tables import CONVERSATIONS, DECISIONS, LEDGER, SAMPLES, SHARD_INDEX, SOURCE
from schemas.vocabulary import Reason, Stage
from stages.feed.shards import DROPPED
from stages.ledger import check_law, funnel, write_ledger
from stages.run_folder import RunFolder

ROWS = 8


def _id(row: int) -> str:
    return f"{row:032x}"


def _table(schema: pa.Schema, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema)


def _run(folder: Path) -> RunFolder:
    """Two parts of four rows. Row 0 is bad, 1 is not there, 2 scores low, 3 copies 4, 5 says nothing, 6 is too long."""
    run = RunFolder(folder)
    reasons = {0: Reason.BAD_ROW, 1: Reason.HTTP_CLIENT_ERROR}
    for part in (0, 1):
        rows = range(4 * part, 4 * part + 4)
        source = [{"sample_id": _id(r), "row": r, "url": f"http://x/{r}", "caption": f"c{r}",
                   "reason": reasons[r] if r == 0 else None} for r in rows]  # fmt: skip
        samples = [{"sample_id": _id(r), "row": r, "reason": reasons.get(r), "http_status": 404 if r == 1 else 200,
                    "sha256": f"{r}", "phash": "0" * 16, "original_width": 10 + r, "original_height": 20}
                   for r in rows]  # fmt: skip
        vectors = pa.table({"sample_id": [_id(r) for r in rows if r > 1],
                            "clip_score": pa.array([r / 10 for r in rows if r > 1], pa.float32())})  # fmt: skip
        run.commit("source", part, "k", {f"source/{part:05d}.parquet": _table(SOURCE, source)}, {"rows": 4})
        run.commit("acquire", part, "k", {f"samples/{part:05d}.parquet": _table(SAMPLES, samples)}, {})
        run.commit("embed", part, "k", {f"vectors/{part:05d}.parquet": vectors}, {})
    return run


def _select(run: RunFolder) -> None:
    fate = {0: Reason.BAD_ROW, 1: Reason.HTTP_CLIENT_ERROR, 2: Reason.CLIP_SCORE, 3: Reason.DUPLICATE_EXACT}
    rows = [
        {"sample_id": _id(r), "row": r, "part": r // 4, "state": "dropped" if r in fate else "kept",
         "stage": fate[r].info.stage if r in fate else None, "reason": fate.get(r),
         "duplicate_of": _id(4) if r == 3 else None, "split": None if r in fate else "train"}
        for r in range(ROWS)
    ]  # fmt: skip
    run.commit("select", "all", "k", {"decisions.parquet": _table(DECISIONS, rows)}, {})


def _feed(run: RunFolder) -> None:
    for part, said, dropped, fed in ((0, [], [], []), (1, [4, 6, 7], [6], [4, 7])):
        conversations = [{"conversation_id": f"{_id(r)}-a", "sample_id": _id(r), "turns": []} for r in said]
        lost = [{"sample_id": _id(r), "reason": Reason.TOO_LONG} for r in dropped]
        index = [{"sample_id": _id(r), "shard": f"train-{part:06d}.tar", "offset": 512 * r} for r in fed]
        said_file, lost_file = f"conversations/{part:05d}.parquet", f"feed/{part:05d}.parquet"
        run.commit("instruct", part, "k", {said_file: _table(CONVERSATIONS, conversations)}, {})
        files = {lost_file: _table(DROPPED, lost), f"shards/train-{part:06d}.index.parquet": _table(SHARD_INDEX, index)}
        run.commit("feed", part, "k", files, {})


def test_each_row_has_the_first_reason_that_befell_it(tmp_path: Path) -> None:
    run = _run(tmp_path)
    _select(run)
    _feed(run)
    counts = write_ledger(run)
    ledger = run.read_table("ledger")
    assert ledger.schema.equals(LEDGER)
    rows = ledger.to_pylist()
    assert [row["reason"] for row in rows] == ["bad_row", "http_4xx", "clip_score", "duplicate_exact", None,
                                               "no_conversation", "too_long", None]  # fmt: skip
    assert [row["stage"] for row in rows[:4]] == ["source", "acquire", "select", "select"]
    assert (rows[3]["duplicate_of"], rows[3]["dedup"], rows[4]["dedup"]) == (_id(4), "all", None)
    assert (rows[7]["shard"], rows[7]["shard_offset"], rows[7]["split"]) == ("train-000001.tar", 3584, "train")
    assert rows[5]["split"] is None
    assert (rows[1]["http_status"], rows[4]["width"], rows[4]["image_sha256"]) == (404, 14, "4")
    assert rows[4]["clip_score"] == pytest.approx(0.4)
    assert counts["kept"] == 2 and sum(counts.values()) == ROWS


def test_an_unfinished_run_has_a_ledger_that_is_true_as_far_as_it_goes(tmp_path: Path) -> None:
    run = _run(tmp_path)
    assert write_ledger(run) == {"bad_row": 1, "http_4xx": 1, "kept": 6}
    _select(run)
    assert write_ledger(run)["kept"] == 4
    _feed(run)
    assert write_ledger(run)["kept"] == 2


def test_the_funnel_adds_up_in_the_order_of_the_line(tmp_path: Path) -> None:
    run = _run(tmp_path)
    _select(run)
    _feed(run)
    write_ledger(run)
    lines = funnel(run)
    assert lines[0] == {"stage": "source", "reason": None, "rows": ROWS, "left": ROWS}
    assert lines[-1]["left"] == 2
    order = [stage.value for stage in Stage]
    assert [order.index(line["stage"]) for line in lines] == sorted(order.index(line["stage"]) for line in lines)


def _spoil(run: RunFolder, change: dict[str, Any] | None, part: int = 1) -> None:
    path = run.path("ledger", f"{part:05d}.parquet")
    rows = pq.read_table(path).to_pylist()
    rows = rows[1:] if change is None else [rows[0] | change, *rows[1:]]
    pq.write_table(pa.Table.from_pylist(rows, LEDGER), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "the ledger has 7 rows and the source 8"),
        ({"sample_id": _id(7)}, "a sample_id stands in the ledger more than once"),
        ({"row": 7}, "a row stands in the ledger more than once"),
        ({"reason": "lost"}, "reason 'lost'"),
        ({"state": "dropped"}, "state 'dropped' and reason 'None'"),
        ({"shard": None}, "1 kept rows are in no shard"),
    ],
)
def test_the_law_notices_every_breach(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    run = _run(tmp_path)
    _select(run)
    _feed(run)
    write_ledger(run)
    check_law(run)
    _spoil(run, change)
    with pytest.raises(LawError, match=message):
        check_law(run)


def test_every_reason_is_explained() -> None:
    for reason in Reason:
        assert reason.info.text and reason.info.stage in list(Stage)
