"""Columns as sources hold them, brought into Arrow's plain types, with a mark at the rows that do not parse."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError


def text_column(table: pa.Table, name: str, where: str) -> pa.Array:
    """Column `name` as `string`; nulls where the table has no such column.

    Raises:
        InputError: the column holds something else than text.
    """
    if name not in table.column_names:
        return pa.nulls(table.num_rows, pa.string())
    column = one_chunk(table[name])
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (is_text_type(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"source.{name}: the column in {where} holds {column.type}, not text")
    return column.cast(pa.string())


def list_column(
    column: pa.Array, item: pa.DataType, read: Callable[[Any], Any], complain: Callable[[pa.DataType], InputError]
) -> tuple[pa.Array, pa.Array]:
    """A column of lists as `list<item>`, and which rows did not parse (these are null in the first).

    Args:
        column: lists, or JSON lists as text.
        item: `string`, or a struct of strings and float64.
        read: an item from JSON in the form of `item`, or None where it is malformed.
        complain: the error for a column of another type.
    """
    none_broken = pa.array(np.zeros(len(column), bool))
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(item)), none_broken
    if is_text_type(column.type):
        lists: list[list[Any] | None] = []
        broken: list[bool] = []
        for text in column.to_pylist():
            value = from_json(text) if text is not None and text.strip() else None
            items = [read(each) for each in value] if isinstance(value, list) else None
            wrong = value is not None and (items is None or None in items)
            lists.append(None if wrong else items)
            broken.append(wrong)
        return pa.array(lists, pa.list_(item)), pa.array(broken, pa.bool_())
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not (is_list and _fits(column.type.value_type, item)):
        raise complain(column.type)
    lengths = pc.list_value_length(column).cast(pa.int32())
    flat = column.flatten()
    if pa.types.is_struct(item):
        fields = [pc.struct_field(flat, field.name).cast(field.type, safe=False) for field in item]
        flat = pa.StructArray.from_arrays(fields, fields=list(item))
    return list_array(lengths, flat.cast(item)), none_broken


def list_array(lengths: pa.Array, flat: pa.Array) -> pa.Array:
    """`list<...>` from each row's number of items (null for a null list) and the items end to end."""
    ends = np.cumsum(lengths.fill_null(0).to_numpy(), dtype=np.int32)
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, flat, mask=lengths.is_null())


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def blank(text: pa.Array) -> pa.Array:
    """Where there is no text, or only white space."""
    return pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(True)


def from_json(text: str | bytes) -> Any:
    """The value, or False (no list, no object) where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return False


def to_json(value: Any) -> str:
    """JSON text; that of False where the value is too deep."""
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return "false"


def is_text(value: Any) -> TypeGuard[str]:
    """A string that UTF-8 can carry: JSON may hold lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_text(value: Any) -> TypeGuard[str]:
    """Text that is more than white space."""
    return is_text(value) and bool(value.strip())


def is_text_type(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)


def _fits(found: pa.DataType, item: pa.DataType) -> bool:
    if not pa.types.is_struct(item):
        return is_text_type(found)
    if not pa.types.is_struct(found):
        return False
    types = {field.name: field.type for field in found}
    return all(
        field.name in types
        and (is_text_type(types[field.name]) if pa.types.is_string(field.type) else _is_number_type(types[field.name]))
        for field in item
    )


def _is_number_type(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found)
