"""From what a form reads to the rows of `schemas.tables.SOURCE`: ids, and a verdict on every row."""

from __future__ import annotations

from collections import Counter
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError
from schemas.identity import sample_id
from schemas.tables import BOX, SOURCE
from schemas.vocabulary import Reason
from stages.source.boxes import read_boxes
from stages.source.columns import blank, is_text, list_array, list_column, one_chunk, text_column
from stages.source.places import open_store
from stages.source.settings import SourceSettings


class Rows:
    """Makes source rows of tables that are given in order, and keeps count: of rows, and of rows that are the same."""

    def __init__(self, settings: SourceSettings, where: str) -> None:
        self._settings = settings
        self._where = where
        self._root = pictures_root(settings)
        self._seen: Counter[bytes] = Counter()
        self.count = 0

    def add(self, table: pa.Table) -> pa.Table:
        """The next rows.

        Args:
            table: any of the columns url, caption, captions, boxes, licence, conversation, picture_file,
                picture_offset, picture_size; `picture`, the picture's name under `source.pictures` (where there is no
                such column, it is the url); `text_only`, true for a conversation without a picture, which needs no
                url; and `broken`, true for what could not be read.

        Raises:
            InputError: a column holds another type than it must.
        """
        rows = table.num_rows
        url, caption, conversation = (self._text(table, name) for name in ("url", "caption", "conversation"))
        bad, text_only = _marks(table, "broken"), _marks(table, "text_only")
        picture_file = self._text(table, "picture_file")
        if self._root is not None:
            names = self._text(table, "picture" if "picture" in table.column_names else "url")
            url, picture_file, unsafe = _under(self._root, names, url)
            bad = pc.or_(bad, unsafe)
        bad = pc.or_(bad, pc.or_(pc.and_not(blank(url), text_only), blank(caption)))
        captions, boxes = pa.nulls(rows, pa.list_(pa.string())), pa.nulls(rows, pa.list_(BOX))
        if "captions" in table.column_names:
            captions, broken = list_column(
                one_chunk(table["captions"]),
                pa.string(),
                lambda value: value if is_text(value) else None,
                self._complain,
            )
            bad = pc.or_(bad, broken)
        if "boxes" in table.column_names:
            boxes, broken = read_boxes(one_chunk(table["boxes"]), self._settings, self._where, first=self.count == 0)
            bad = pc.or_(bad, broken)
        columns = {
            "sample_id": pa.array(self._ids(url, caption), pa.string()),
            "row": pa.array(np.arange(self.count, self.count + rows)),
            "url": url,
            "caption": caption,
            "captions": pc.if_else(bad, pa.scalar(None, captions.type), _with_first(caption, captions)),
            "boxes": pc.if_else(bad, pa.scalar(None, boxes.type), boxes),
            "licence": self._text(table, "licence"),
            "conversation": pc.if_else(bad, pa.scalar(None, pa.string()), conversation),
            "text_only": text_only,
            "picture_file": picture_file,
            "picture_offset": _numbers(table, "picture_offset"),
            "picture_size": _numbers(table, "picture_size"),
            "reason": pc.if_else(bad, Reason.BAD_ROW.value, pa.scalar(None, pa.string())),
        }
        self.count += rows
        return pa.table(columns, SOURCE)

    def _text(self, table: pa.Table, name: str) -> pa.Array:
        return text_column(table, name, self._where)

    def _complain(self, found: pa.DataType) -> InputError:
        return InputError(
            f"source.captions: the column in {self._where} holds {found}; it should hold {pa.list_(pa.string())}"
        )

    def _ids(self, url: pa.Array, caption: pa.Array) -> list[str]:
        ids = []
        for address, text in zip(url.fill_null("").to_pylist(), caption.fill_null("").to_pylist(), strict=True):
            first = sample_id(address, text)
            name = bytes.fromhex(first)
            ids.append(sample_id(address, text, self._seen[name]) if self._seen[name] else first)
            self._seen[name] += 1
        return ids


def pictures_root(settings: SourceSettings) -> str | None:
    """`source.pictures` with a slash at its end: an absolute local path, or an address; None where it is not given.

    Raises:
        InputError: fsspec does not know the store.
    """
    if settings.pictures is None:
        return None
    fs, path = open_store(settings.pictures, settings.storage_options, "pictures")
    local = "file" in fs.protocol
    return (path if local else str(fs.unstrip_protocol(path))).rstrip("/") + "/"


def _under(root: str, names: pa.Array, url: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Addresses, files, and which names lead out of `root`: a table must not make us read any other file.

    Names that are addresses themselves are left as they are, to be downloaded.
    """
    missing = blank(names)
    address = pc.match_substring(names, "://").fill_null(False)
    unsafe = pc.match_substring_regex(names, r"^/|(^|/)\.\.(/|$)|\x00").fill_null(False)
    unsafe = pc.and_(unsafe, pc.invert(address))
    ours = pc.invert(pc.or_(pc.or_(missing, address), unsafe))
    null = pa.scalar(None, pa.string())
    if root.startswith(("http://", "https://")):
        quoted = [None if name is None else root + quote(name) for name in names.to_pylist()]
        return pc.if_else(ours, pa.array(quoted, pa.string()), url), pa.nulls(len(names), pa.string()), unsafe
    files = pc.binary_join_element_wise(pa.scalar(root), names, "")
    return url, pc.if_else(ours, files, null), unsafe


def _with_first(first: pa.Array, lists: pa.Array) -> pa.Array:
    """Each list with `first` at its head and nowhere else, without nulls."""
    flat, parents = lists.flatten(), pc.list_parent_indices(lists)
    other = pc.not_equal(flat, first.take(parents)).fill_null(False)
    flat, parents = flat.filter(other), parents.filter(other).to_numpy()
    rows = np.concatenate([np.arange(len(first)), parents])
    order = np.argsort(rows, kind="stable")
    lengths = np.bincount(rows, minlength=len(first))
    return list_array(pa.array(lengths, pa.int32()), pa.concat_arrays([first, flat]).take(pa.array(order)))


def _marks(table: pa.Table, name: str) -> pa.Array:
    return (
        one_chunk(table[name]).fill_null(False)
        if name in table.column_names
        else pa.array(np.zeros(table.num_rows, bool))
    )


def _numbers(table: pa.Table, name: str) -> pa.Array:
    return one_chunk(table[name]) if name in table.column_names else pa.nulls(table.num_rows, pa.int64())
