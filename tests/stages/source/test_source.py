"""The source table: forms, ids, bad rows, parts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from schemas.errors import InputError
from schemas.identity import sample_id
from schemas.tables import BOX, SOURCE
from stages.run_folder import RunFolder
from stages.source import SourceSettings, read_source, write_parts

BOXES = [{"label": "cat", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0}]
ROWS = [
    {"url": "http://a/1.jpg", "caption": "a cat", "captions": ["one cat", "a cat"], "boxes": BOXES},
    {"url": "http://a/1.jpg", "caption": "a cat", "captions": None, "boxes": None},
    {"url": "http://a/2.jpg", "caption": "the dog, red", "captions": [], "boxes": []},
    {"url": None, "caption": "no address", "captions": None, "boxes": BOXES},
    {"url": "http://a/3.jpg", "caption": "  ", "captions": ["said"], "boxes": None},
    {"url": "http://a/4.jpg", "caption": "flat box", "captions": None, "boxes": [BOXES[0] | {"w": 0.0}]},
    {"url": "http://a/5.jpg", "caption": "nan", "captions": None, "boxes": [*BOXES, BOXES[0] | {"x": float("nan")}]},
    {"url": "http://a/6.jpg", "caption": "nameless box", "captions": None, "boxes": [BOXES[0] | {"label": None}]},
]  # fmt: skip
BAD = [False, False, False, True, True, True, True, True]


def _write(path: Path, rows: list[dict] = ROWS) -> SourceSettings:
    if path.suffix == ".parquet":
        schema = pa.schema([("url", pa.string()), ("caption", pa.string()), ("captions", pa.list_(pa.string())), ("boxes", pa.list_(BOX))])  # fmt: skip # noqa: E501
        pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=3)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        text = [{k: json.dumps(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        delimiter = "\t" if path.suffix == ".tsv" else ","
        pa.csv.write_csv(pa.Table.from_pylist(text), path, pa.csv.WriteOptions(delimiter=delimiter))
    return SourceSettings(table=str(path), captions="captions", boxes="boxes", rows_per_part=3)


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
def test_every_form_gives_the_same_rows_with_ids_and_reasons(tmp_path: Path, form: str) -> None:
    parts = list(read_source(_write(tmp_path / f"urls.{form}")))
    assert [part.num_rows for part in parts] == [3, 3, 2]
    table = pa.concat_tables(parts)
    assert table.schema == SOURCE
    assert table["row"].to_pylist() == list(range(8))
    assert [reason == "bad_row" for reason in table["reason"].to_pylist()] == BAD
    assert table["sample_id"].to_pylist()[:3] == [
        sample_id("http://a/1.jpg", "a cat"),
        sample_id("http://a/1.jpg", "a cat", 1),
        sample_id("http://a/2.jpg", "the dog, red"),
    ]
    assert len(pc.unique(table["sample_id"])) == 8
    assert table["captions"].to_pylist()[:4] == [["a cat", "one cat"], ["a cat"], ["the dog, red"], None]
    assert table["boxes"].to_pylist()[:3] == [BOXES, None, []]
    assert table["boxes"].to_pylist()[5:] == [None] * 3


@pytest.mark.parametrize(
    "boxes",
    ["not json", "{}", '[{"label": "cat"}]', '[{"label": "cat", "x": "1", "y": 1, "w": 1, "h": 1}]',
     '[{"label": "cat", "x": 1e99, "y": 1, "w": 1, "h": 1}]', '[{"label": 3, "x": 1, "y": 1, "w": 1, "h": 1}]', "[1]"],
)  # fmt: skip
def test_boxes_as_text_that_do_not_parse_make_a_bad_row(tmp_path: Path, boxes: str) -> None:
    path = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": ["u", "v"], "caption": ["a", "b"], "boxes": [boxes, json.dumps(BOXES)]}), path)
    (part,) = read_source(SourceSettings(table=str(path), boxes="boxes"))
    assert part["reason"].to_pylist() == ["bad_row", None]
    assert part["boxes"].to_pylist() == [None, BOXES]


def test_broken_lines_of_json_stay_rows(tmp_path: Path) -> None:
    path = tmp_path / "urls.jsonl"
    good = b'{"url": "u", "caption": "c"}\n'
    path.write_bytes(
        good + b"{broken\n\n[1]\n\xff\n" + b'{"url": "v", "caption": "\\ud800"}\n{"url": 3, "caption": "c"}\n'
    )
    (part,) = read_source(SourceSettings(table=str(path)))
    assert part["reason"].to_pylist() == [None] + ["bad_row"] * 5


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    _write(tmp_path / "urls.parquet")
    with pytest.raises(
        InputError, match=r"no column 'captoin'; did you mean 'caption'\? .*url, caption, captions, boxes"
    ):
        list(read_source(SourceSettings(table=str(tmp_path / "urls.parquet"), caption="captoin")))
    for form in ("csv", "jsonl"):
        _write(tmp_path / f"urls.{form}")
        with pytest.raises(InputError, match="source.licence: .* has no column 'terms'"):
            list(read_source(SourceSettings(table=str(tmp_path / f"urls.{form}"), licence="terms")))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    (tmp_path / "ragged.csv").write_text("url,caption\nu,c\nu,c,d\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "headed.csv").write_text("url,caption\n")
    (tmp_path / "folder.parquet").mkdir()
    pq.write_table(pa.table({"url": [1], "caption": ["a"]}), tmp_path / "numbers.parquet")
    for name, message in [
        ("absent.parquet", "cannot read .*absent.parquet: No such file"),
        ("folder.parquet", "cannot read .*folder.parquet: Is a directory"),
        ("broken.parquet", "cannot read .*broken.parquet"),
        ("ragged.csv", "cannot read .*ragged.csv"),
        ("empty.csv", "holds no rows"),
        ("headed.csv", "holds no rows"),
        ("urls.xlsx", "known are .csv"),
        ("numbers.parquet", "holds int64, not text"),
    ]:
        with pytest.raises(InputError, match=message):
            list(read_source(SourceSettings(table=str(tmp_path / name))))


def test_parts_are_written_once_and_follow_the_table(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = _write(tmp_path / "urls.parquet")
    assert write_parts(run, settings) == {"rows": 8, "parts": 3, "bad_row": 5}
    assert run.parts() == [0, 1, 2]
    first = {part: run.output_digest("source", part) for part in run.parts()}
    written = [run.table_path("source", part).stat().st_mtime_ns for part in run.parts()]
    assert write_parts(run, settings) == {"rows": 8, "parts": 3, "bad_row": 5}
    assert [run.table_path("source", part).stat().st_mtime_ns for part in run.parts()] == written

    run.table_path("source", 1).unlink()
    write_parts(run, settings)
    assert {part: run.output_digest("source", part) for part in run.parts()} == first

    _write(tmp_path / "urls.parquet", ROWS[:4])
    assert write_parts(run, settings) == {"rows": 4, "parts": 2, "bad_row": 1}
    assert run.parts() == [0, 1]
    assert run.manifest("source", 2) is None
    assert run.output_digest("source", 0) == first[0]
