"""The source stage: reads the source in its form and commits its parts."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from schemas.errors import InputError
from schemas.vocabulary import Reason, Stage
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.source.forms import Form, open_form
from stages.source.rows import Rows, pictures_root
from stages.source.settings import SourceSettings

VERSION = 3


def write_parts(run: RunFolder, settings: SourceSettings) -> dict[str, int]:
    """Cuts the source into parts in the run folder; parts beyond its end are taken away.

    Nothing is done where the parts are there already and the input is the same. The same means, for local tables,
    JSON and caption files: the same content. For pictures, tars and everything in a remote store, which would have to
    be read whole: the same names, sizes, and checksums (ETag) where the store gives one; never times, which a copy
    changes. Where rows name files that lie somewhere, that place counts too. A local tar or picture that is
    overwritten by another of the very same name and size is not noticed.

    Returns:
        `rows`, `parts`, and `bad_row`: the rows that no picture will be asked for.

    Raises:
        InputError: the source cannot be read, is of no known form, holds no rows, or lacks a column.
    """
    form = open_form(settings)
    shape = settings.model_dump(exclude={"table", "form", "pictures", "storage_options"})
    key = work_key(Stage.SOURCE, VERSION, shape, [form.name, pictures_root(settings), *form.facts()])
    whole = run.manifest(Stage.SOURCE, WHOLE)
    if whole is not None and whole["key"] == key:
        parts = range(whole["counts"]["parts"])
        if all(run.is_done(Stage.SOURCE, part, key) for part in parts):
            return whole["counts"]
    total = {"rows": 0, "parts": 0, Reason.BAD_ROW.value: 0}
    for part, table in enumerate(_read(form, settings)):
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
    """Yields the parts of the source in the form of `schemas.tables.SOURCE`, in order.

    A row without url (unless it is about no picture) or caption, or whose captions, boxes or conversation do not parse,
    or whose picture is missing from the folder or tar that should hold it, stays a row, with the reason `bad_row`.

    Raises:
        InputError: the source cannot be read, is of no known form, holds no rows, or lacks a column.
    """
    yield from _read(open_form(settings), settings)


def count_rows(settings: SourceSettings) -> int | None:
    """Rows of the source where that costs little to know (Parquet), else None.

    Raises:
        InputError: the source cannot be read.
    """
    return open_form(settings).count()


def _read(form: Form, settings: SourceSettings) -> Iterator[pa.Table]:
    form.check()
    rows = Rows(settings, form.where)
    for table in _in_parts(form.tables(), settings.rows_per_part):
        yield rows.add(table)
    if rows.count == 0:
        raise InputError(f"{form.where}: the source holds no rows")


def _in_parts(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Cuts a stream of tables into tables of exactly `rows` rows; the last may be shorter."""
    waiting: list[pa.Table] = []
    held = 0
    for table in tables:
        waiting.append(table)
        held += table.num_rows
        if held >= rows:
            joined = _joined(waiting)
            for start in range(0, held - rows + 1, rows):
                yield joined.slice(start, rows)
            waiting = [joined.slice(held - held % rows)]
            held %= rows
    if held:
        yield _joined(waiting)


def _joined(tables: list[pa.Table]) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"source.table: the files hold columns of different types: {error}") from error
