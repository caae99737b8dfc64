"""Boxes in the forms and units that a recipe states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import InputError
from tests.stages.source.data import column, make_coco, put, read

XYWH, XYXY = ("x", "y", "w", "h"), ("x1", "y1", "x2", "y2")


def _table(root: Path, boxes: list[list[tuple[float, ...]]], sides: tuple[str, ...], as_text: bool = True) -> Path:
    """One row for every list of boxes; a JSON line, or a row of Parquet with structs."""
    rows: list[dict[str, Any]] = [
        {"url": f"http://a/{n}", "caption": "c", "boxes": [{"label": "cat", **dict(zip(sides, box, strict=True))}
         for box in each]}
        for n, each in enumerate(boxes)
    ]  # fmt: skip
    if as_text:
        return put(root / "t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), root / "t.parquet")
    return root / "t.parquet"


def _numbers(rows: list[dict[str, Any]]) -> list[Any]:
    return [row["boxes"] and [tuple(box[side] for side in XYWH) for box in row["boxes"]] for row in rows]


@pytest.mark.parametrize("as_text", [True, False])
def test_corners_become_widths_and_impossible_ones_bad_rows(tmp_path: Path, as_text: bool) -> None:
    boxes = [[(10.0, 20.0, 30.0, 60.0)], [(10.0, 20.0, 10.0, 60.0)], [(1.0, 1.0, 2.0, 2.0), (5.0, 9.0, 6.0, 8.0)], []]
    rows = read(_table(tmp_path, boxes, XYXY, as_text), boxes="boxes", box_form="xyxy")
    assert _numbers(rows) == [[(10, 20, 20, 40)], None, None, []]
    assert column(rows, "reason") == [None, "bad_row", "bad_row", None]


@pytest.mark.parametrize("as_text", [True, False])
def test_fractions_lie_within_the_picture(tmp_path: Path, as_text: bool) -> None:
    boxes = [[(0.25, 0.5, 0.5, 0.5005)], [(0.25, 0.5, 0.5, 0.502)], [(-0.002, 0.0, 0.5, 0.5)], [(0.0, 0.0, 1.0, 1.0)]]
    rows = read(_table(tmp_path, boxes, XYWH, as_text), boxes="boxes", box_units="fractions")
    assert column(rows, "reason") == [None, "bad_row", "bad_row", None]
    assert _numbers(rows)[3] == [(0, 0, 1, 1)]


@pytest.mark.parametrize(
    ("boxes", "sides", "keys", "message"),
    [
        ([[(50, 40, 10, 10)], [(9, 9, 3, 3)]], XYXY, {"box_form": "xyxy"}, "source.box_form: .*as xyxy.*may be xywh"),
        ([[(5, 4, 10, 10)], []], XYXY, {}, "source.box_form: .*as xywh; they may be xyxy"),
        ([[(5, 4, 10, 10)]], XYWH, {"box_units": "fractions"}, "source.box_units: .*look like pixels"),
        ([[(0.6, 0.6, 0.8, 0.8)]], XYWH, {"box_units": "fractions"}, "source.box_form: .*may be xyxy"),
        ([[(0.1, 0.1, 0.8, 0.8)], []], XYWH, {}, "source.box_units: pixels, but.*set box_units: fractions"),
        ([[(1, 2)]], ("left", "top"), {}, "source.boxes: no box parses; each should be {label, x, y, w, h}"),
    ],
)
def test_a_recipe_that_names_the_wrong_form_or_units_is_told_so(
    tmp_path: Path, boxes: list[list[tuple[float, ...]]], sides: tuple[str, ...], keys: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(_table(tmp_path, boxes, sides), boxes="boxes", **keys)


def test_structs_of_the_other_form_are_refused_by_their_type(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="with box_form: xywh it should hold lists of {label, x, y, w, h}"):
        read(_table(tmp_path, [[(1.0, 2.0, 3.0, 4.0)]], XYXY, as_text=False), boxes="boxes")


def test_only_the_first_part_can_condemn_the_recipe(tmp_path: Path) -> None:
    path = _table(tmp_path, [[(5, 4, 10, 10)], [(5, 4, 0, 0)], [(5, 4, 0, 0)]], XYWH)
    assert column(read(path, boxes="boxes", rows_per_part=1), "reason") == [None, "bad_row", "bad_row"]


def test_coco_boxes_as_corners(tmp_path: Path) -> None:
    straight = read(make_coco(tmp_path / "a"))
    corners = read(make_coco(tmp_path / "b", lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), box_form="xyxy")
    assert column(straight, "boxes") == column(corners, "boxes")
