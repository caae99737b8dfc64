"""Boxes: read in the form and units that the recipe states, checked, and given on as x, y, w, h."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError
from schemas.tables import BOX
from stages.source.columns import is_text, list_array, list_column
from stages.source.settings import SourceSettings

#: Names of a box's four numbers in each `source.box_form`.
SIDES = {"xywh": ("x", "y", "w", "h"), "xyxy": ("x1", "y1", "x2", "y2")}
#: How far beyond 0 and 1 a fraction may lie: what rounding in a data set makes of an edge.
_TOLERANCE = 1e-3


def read_boxes(column: pa.Array, settings: SourceSettings, where: str, first: bool) -> tuple[pa.Array, pa.Array]:
    """Boxes as `list<schemas.tables.BOX>` in the units given, and which rows hold a broken or impossible box.

    A box needs a label, finite numbers, a width and a height; fractions must lie within the picture.

    Args:
        where: the source, for messages.
        first: whether these are the source's first rows. If every row among them that has boxes is wrong, or all boxes
            given in pixels would fit into one pixel, it is the recipe that is wrong.

    Raises:
        InputError: as said under `first`, or the column is of another type.
    """
    sides = SIDES[settings.box_form]
    item = pa.struct([("label", pa.string()), *((side, pa.float64()) for side in sides)])
    lists, bad = list_column(column, item, partial(_read_box, sides), lambda found: _wrong_type(settings, where, found))
    flat = lists.flatten()
    numbers = np.stack([pc.struct_field(flat, side).to_numpy(zero_copy_only=False) for side in sides])
    with np.errstate(over="ignore", invalid="ignore"):
        if settings.box_form == "xyxy":
            numbers[2:] -= numbers[:2]
        numbers = numbers.astype(np.float32)
        right_bottom = numbers[:2] + numbers[2:]
    good = np.isfinite(numbers).all(0) & (numbers[2:] > 0).all(0)
    inside = (numbers[:2] >= -_TOLERANCE).all(0) & (right_bottom <= 1 + _TOLERANCE).all(0)
    if settings.box_units == "fractions":
        good &= inside
    good &= pc.is_valid(pc.struct_field(flat, "label")).to_numpy(zero_copy_only=False)
    wrong = bad.to_numpy(zero_copy_only=False).copy()
    wrong[pc.list_parent_indices(lists).filter(pa.array(~good)).to_numpy()] = True
    if first:
        boxed = wrong | (pc.list_value_length(lists).fill_null(0).to_numpy() > 0)
        if boxed.any() and wrong[boxed].all():
            raise _wrong_key(column[int(np.argmax(boxed))].as_py(), numbers, settings, where)
        if settings.box_units == "pixels" and good.any() and inside[good].all():
            raise InputError(
                f"source.box_units: pixels, but every box in the first rows of {where} lies within 0..1; "
                "they look like fractions of the picture: set box_units: fractions"
            )
    columns = [pc.struct_field(flat, "label"), *map(pa.array, numbers)]
    boxes = pa.StructArray.from_arrays(columns, fields=list(BOX))
    return list_array(pc.list_value_length(lists), boxes), pa.array(wrong)


def box_from_numbers(label: Any, numbers: Any, settings: SourceSettings) -> dict[str, Any]:
    """A box of four numbers in a row, as COCO has it, under the names that `settings.box_form` gives them."""
    sides = SIDES[settings.box_form]
    if isinstance(numbers, list) and len(numbers) == len(sides):
        return {"label": label, **dict(zip(sides, numbers, strict=True))}
    return {"label": label, "malformed": numbers}


def _read_box(sides: tuple[str, ...], value: Any) -> dict[str, Any] | None:
    if not (isinstance(value, dict) and is_text(value.get("label")) and all(_is_number(value.get(s)) for s in sides)):
        return None
    return {"label": value["label"], **{side: float(value[side]) for side in sides}}


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e30 if isinstance(value, int) else math.isfinite(value)


def _wrong_type(settings: SourceSettings, where: str, found: pa.DataType) -> InputError:
    sides = ", ".join(SIDES[settings.box_form])
    return InputError(
        f"source.boxes: the column in {where} holds {found}; with box_form: {settings.box_form} it should hold "
        f"lists of {{label, {sides}}}"
    )


def _wrong_key(example: Any, numbers: np.ndarray, settings: SourceSettings, where: str) -> InputError:
    """What to say when every boxed row is wrong: which key is likely the cause, and a row to show it."""
    shown = str(example)[:200]
    other = "xyxy" if settings.box_form == "xywh" else "xywh"
    if settings.box_units == "fractions" and np.nanmax(numbers, initial=0) > 1 + _TOLERANCE:
        key = "box_units: the boxes do not lie within 0..1 as fractions must; they look like pixels"
    elif (
        settings.box_units == "fractions"
        and numbers.size
        or (settings.box_form == "xyxy" and (numbers[2:] <= 0).any())
        or all(side in shown for side in SIDES[other])
    ):
        key = f"box_form: the boxes make no sense as {settings.box_form}; they may be {other}"
    else:
        key = f"boxes: no box parses; each should be {{label, {', '.join(SIDES[settings.box_form])}}}"
    return InputError(f"source.{key}. All boxes in the first rows of {where} are wrong, for example {shown}")
