"""Reads the source table and cuts it into parts: every row gets its place, its id, and a verdict on its form."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field

from schemas.errors import InputError
from schemas.identity import digest_file, sample_id
from schemas.settings import Settings
from schemas.tables import BOX, SOURCE
from schemas.vocabulary import Reason, Stage
from stages.run_folder import WHOLE, RunFolder, work_key

VERSION = 1
_CSV_BLOCK_BYTES = 16 << 20


class SourceSettings(Settings):
    """The table of pictures, and which of its columns hold what."""

    table: str = Field(default=..., description="a local file: .parquet, .csv, .tsv, or JSON lines (.jsonl, .ndjson)")
    url: str = Field(default="url", description="column with the picture's address")
    caption: str = Field(default="caption", description="column with the caption that is scored")
    captions: str | None = Field(default=None, description="column with all captions: a list, or a JSON list as text")
    boxes: str | None = Field(
        default=None,
        description="column with boxes: a list (or a JSON list as text) of {label, x, y, w, h}; x, y is the upper left "
        "corner; pixels of the original picture",
    )
    licence: str | None = Field(default=None, description="column with the picture's licence")
    rows_per_part: int = Field(
        default=2000, ge=1, le=10_000, description="rows in one part (one shard, one step of resume)"
    )

    def columns(self) -> dict[str, str]:
        """What is wanted -> the column that holds it."""
        wanted = {name: getattr(self, name) for name in ("url", "caption", "captions", "boxes", "licence")}
        return {name: column for name, column in wanted.items() if column is not None}


def write_parts(run: RunFolder, settings: SourceSettings) -> dict[str, int]:
    """Cuts the source table into parts in the run folder; parts beyond its end are taken away.

    Returns:
        `rows`, `parts`, and `bad_row`: the rows that no picture will be asked for.

    Raises:
        InputError: the table cannot be read, holds no rows, or lacks a column.
    """
    path = _existing_file(settings.table)
    shape = settings.model_dump(exclude={"table"})
    key = work_key(Stage.SOURCE, VERSION, shape, [digest_file(path), path.suffix.lower()])
    whole = run.manifest(Stage.SOURCE, WHOLE)
    if whole is not None and whole["key"] == key:
        parts = range(whole["counts"]["parts"])
        if all(run.is_done(Stage.SOURCE, part, key) for part in parts):
            return whole["counts"]
    total = {"rows": 0, "parts": 0, Reason.BAD_ROW.value: 0}
    for part, table in enumerate(read_source(settings)):
        bad = table.num_rows - table["reason"].null_count
        counts = {"rows": table.num_rows, Reason.BAD_ROW.value: bad}
        run.commit(Stage.SOURCE, part, key, {f"source/{part:05d}.parquet": table}, counts, version=VERSION)
        total = {"rows": total["rows"] + table.num_rows, "parts": part + 1, "bad_row": total["bad_row"] + bad}
    for part in run.parts():
        if part >= total["parts"]:
            run.path("manifests", Stage.SOURCE, f"{part:05d}.json").unlink(missing_ok=True)
            run.table_path("source", part).unlink()
    run.commit(Stage.SOURCE, WHOLE, key, {}, total, version=VERSION)
    return total


def read_source(settings: SourceSettings) -> Iterator[pa.Table]:
    """Yields the parts of the source table in the form of `schemas.tables.SOURCE`, in order.

    A row without url or caption, or whose captions or boxes do not parse, stays a row, with the reason `bad_row`.

    Raises:
        InputError: the table cannot be read, holds no rows, or lacks a column.
    """
    path = _existing_file(settings.table)
    seen: Counter[bytes] = Counter()
    row = 0
    for table in _in_parts(_read_columns(path, settings), settings.rows_per_part):
        yield _to_source(table, row, seen, path)
        row += table.num_rows
    if row == 0:
        raise InputError(f"{path}: the table holds no rows")


def _existing_file(name: str) -> Path:
    if "://" in name:
        raise InputError(f"source.table: {name} is a remote store; only local files can be read in this version")
    path = Path(name)
    if path.suffix.lower() not in _READERS:
        raise InputError(f"source.table: {path} is of no known form; known are {', '.join(sorted(_READERS))}")
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise InputError(f"source.table: cannot read {path}: {error.strerror}") from error


def _read_columns(path: Path, settings: SourceSettings) -> Iterator[pa.Table]:
    """Tables of any length with the wanted columns under their own names."""
    columns = settings.columns()
    try:
        for table in _READERS[path.suffix.lower()](path, columns, settings.rows_per_part):
            yield table.select(list(columns.values())).rename_columns(list(columns))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"source.table: cannot read {path}: {str(error).splitlines()[0]}") from error


def _require(path: Path, columns: dict[str, str], there: list[str]) -> None:
    for name, column in columns.items():
        if column not in there:
            near = difflib.get_close_matches(column, there, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise InputError(
                f"source.{name}: {path} has no column '{column}'; {hint}The columns there are: {', '.join(there)}"
            )


def _read_parquet(path: Path, columns: dict[str, str], rows: int) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        _require(path, columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=rows, columns=list(dict.fromkeys(columns.values()))):
            yield pa.Table.from_batches([batch])


def _read_delimited(path: Path, columns: dict[str, str], rows: int) -> Iterator[pa.Table]:
    parse = pyarrow.csv.ParseOptions(
        delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=path.suffix.lower() == ".csv"
    )
    read = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    if path.stat().st_size == 0:
        return
    with pyarrow.csv.open_csv(path, read, parse) as reader:
        _require(path, columns, reader.schema.names)
    wanted = list(dict.fromkeys(columns.values()))
    convert = pyarrow.csv.ConvertOptions(
        include_columns=wanted, column_types={column: pa.string() for column in wanted}
    )
    with pyarrow.csv.open_csv(path, read, parse, convert) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _read_json_lines(path: Path, columns: dict[str, str], rows: int) -> Iterator[pa.Table]:
    """Line by line, because one broken line is one bad row. Lists come as JSON text, as they do from CSV."""
    objects: list[dict[str, Any]] = []
    checked = False
    with open(path, "rb") as file:
        for line in file:
            if not line.strip():
                continue
            objects.append(_json_object(line))
            if len(objects) == rows:
                yield _json_table(path, columns, objects, checked)
                objects, checked = [], True
    if objects:
        yield _json_table(path, columns, objects, checked)


def _json_object(line: bytes) -> dict[str, Any]:
    value = _from_json(line)
    return value if isinstance(value, dict) else {}


def _json_table(path: Path, columns: dict[str, str], objects: list[dict[str, Any]], checked: bool) -> pa.Table:
    if not checked:
        _require(path, columns, sorted({name for item in objects for name in item}))
    arrays = {}
    for name, column in columns.items():
        values = [item.get(column) for item in objects]
        if name in ("captions", "boxes"):
            values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        arrays[column] = pa.array([value if _is_text(value) else None for value in values], pa.string())
    return pa.table(arrays)


_READERS: dict[str, Callable[[Path, dict[str, str], int], Iterator[pa.Table]]] = {
    ".parquet": _read_parquet,
    ".csv": _read_delimited,
    ".tsv": _read_delimited,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
}


def _in_parts(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Cuts a stream of tables into tables of exactly `rows` rows; the last may be shorter."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        waiting.append(table)
        held += table.num_rows
        if held >= rows:
            joined = pa.concat_tables(waiting)
            for start in range(0, held - rows + 1, rows):
                yield joined.slice(start, rows)
            waiting = [joined.slice(held - held % rows)]
            held %= rows
    if held:
        yield pa.concat_tables(waiting)


def _to_source(table: pa.Table, first_row: int, seen: Counter[bytes], path: Path) -> pa.Table:
    count = table.num_rows
    url, caption = (_text_column(table, name, path) for name in ("url", "caption"))
    bad = pc.or_(_blank(url), _blank(caption))
    captions, boxes = pa.nulls(count, pa.list_(pa.string())), pa.nulls(count, pa.list_(BOX))
    if "captions" in table.column_names:
        captions, broken = _lists(table, "captions", pa.string(), _is_text, path)
        bad = pc.or_(bad, broken)
    if "boxes" in table.column_names:
        boxes, broken = _lists(table, "boxes", BOX, _is_box, path)
        bad = pc.or_(bad, pc.or_(broken, _badly_formed(boxes)))
    licence = _text_column(table, "licence", path) if "licence" in table.column_names else pa.nulls(count, pa.string())
    ids = []
    for address, text in zip(url.fill_null("").to_pylist(), caption.fill_null("").to_pylist(), strict=True):
        first = sample_id(address, text)
        name = bytes.fromhex(first)
        ids.append(sample_id(address, text, seen[name]) if seen[name] else first)
        seen[name] += 1
    columns = {
        "sample_id": pa.array(ids, pa.string()),
        "row": pa.array(np.arange(first_row, first_row + count)),
        "url": url,
        "caption": caption,
        "captions": pc.if_else(bad, pa.scalar(None, captions.type), _with_first(caption, captions)),
        "boxes": pc.if_else(bad, pa.scalar(None, boxes.type), boxes),
        "licence": licence,
        "reason": pc.if_else(bad, Reason.BAD_ROW.value, pa.scalar(None, pa.string())),
    }
    return pa.table(columns, SOURCE)


def _text_column(table: pa.Table, name: str, path: Path) -> pa.Array:
    column = _one_chunk(table[name])
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (_is_text_type(column.type) or pa.types.is_null(column.type)):
        raise InputError(f"source.{name}: the column in {path} holds {column.type}, not text")
    return column.cast(pa.string())


def _lists(
    table: pa.Table, name: str, item: pa.DataType, well_formed: Callable[[Any], bool], path: Path
) -> tuple[pa.Array, pa.Array]:
    """A column of lists as `list<item>`, and which rows did not parse (these are null in the first)."""
    column = _one_chunk(table[name])
    none_broken = pa.array(np.zeros(len(column), bool))
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), pa.list_(item)), none_broken
    if _is_text_type(column.type):
        values = [None if text is None or not text.strip() else _from_json(text) for text in column.to_pylist()]
        broken = [
            value is not None and not (isinstance(value, list) and all(map(well_formed, value))) for value in values
        ]
        good = [None if wrong else value for value, wrong in zip(values, broken, strict=True)]
        return pa.array(good, pa.list_(_wide(item))).cast(pa.list_(item), safe=False), pa.array(broken, pa.bool_())
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    fits = is_list and _fits(column.type.value_type, item)
    if not fits:
        raise InputError(f"source.{name}: the column in {path} holds {column.type}; it should hold {pa.list_(item)}")
    lengths = pc.list_value_length(column).cast(pa.int32())
    flat = column.flatten()
    if pa.types.is_struct(item):
        fields = [pc.struct_field(flat, field.name).cast(field.type, safe=False) for field in item]
        flat = pa.StructArray.from_arrays(fields, fields=list(item))
    return _list_array(lengths, flat.cast(item)), none_broken


def _fits(found: pa.DataType, item: pa.DataType) -> bool:
    if not pa.types.is_struct(item):
        return _is_text_type(found)
    if not pa.types.is_struct(found):
        return False
    types = {field.name: field.type for field in found}
    return all(
        field.name in types
        and (_is_text_type(types[field.name]) if pa.types.is_string(field.type) else _is_number_type(types[field.name]))
        for field in item
    )


def _badly_formed(boxes: pa.Array) -> pa.Array:
    """Which rows hold a box without label, with a number that is not finite, or with no width or height."""
    flat = boxes.flatten()
    good = pc.is_valid(pc.struct_field(flat, "label"))
    for name in ("x", "y", "w", "h"):
        good = pc.and_(good, pc.is_finite(pc.struct_field(flat, name)).fill_null(False))
    for name in ("w", "h"):
        good = pc.and_(good, pc.greater(pc.struct_field(flat, name), 0).fill_null(False))
    bad_rows = pc.list_parent_indices(boxes).filter(pc.invert(good)).to_numpy()
    mask = np.zeros(len(boxes), bool)
    mask[bad_rows] = True
    return pa.array(mask)


def _with_first(first: pa.Array, lists: pa.Array) -> pa.Array:
    """Each list with `first` at its head and nowhere else, without nulls."""
    flat, parents = lists.flatten(), pc.list_parent_indices(lists)
    other = pc.not_equal(flat, first.take(parents)).fill_null(False)
    flat, parents = flat.filter(other), parents.filter(other).to_numpy()
    rows = np.concatenate([np.arange(len(first)), parents])
    order = np.argsort(rows, kind="stable")
    lengths = np.bincount(rows, minlength=len(first))
    return _list_array(pa.array(lengths, pa.int32()), pa.concat_arrays([first, flat]).take(pa.array(order)))


def _list_array(lengths: pa.Array, flat: pa.Array) -> pa.Array:
    """`list<...>` from each row's number of items (null for a null list) and the items end to end."""
    ends = np.cumsum(lengths.fill_null(0).to_numpy(), dtype=np.int32)
    offsets = pa.array(np.concatenate([[0], ends]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, flat, mask=lengths.is_null())


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)


def _wide(item: pa.DataType) -> pa.DataType:
    """`item` with float64 numbers, which any JSON number can become."""
    if not pa.types.is_struct(item):
        return item
    return pa.struct([(field.name, pa.float64() if pa.types.is_floating(field.type) else field.type) for field in item])


def _from_json(text: str | bytes) -> Any:
    """The value, or False (no list, no object) where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return False


def _is_box(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("label")) and all(_is_number(value.get(k)) for k in "xywh")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e30 if isinstance(value, int) else math.isfinite(value)


def _is_text(value: Any) -> bool:
    """A string that UTF-8 can carry: JSON may hold lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_text_type(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)


def _is_number_type(found: pa.DataType) -> bool:
    return pa.types.is_integer(found) or pa.types.is_floating(found)


def _blank(text: pa.Array) -> pa.Array:
    return pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(True)
