"""What a form of source is, and what forms have in common that are read record by record."""

from __future__ import annotations

import difflib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from schemas.errors import InputError
from stages.source.columns import has_text, is_text, to_json
from stages.source.places import Place

if TYPE_CHECKING:
    from stages.source.settings import SourceSettings

Record = dict[str, Any]

#: The name of the caption's column where the recipe does not say.
CAPTION = "caption"

_LISTS = ("captions", "boxes")
_COLUMNS = {
    "url": pa.string(),
    "caption": pa.string(),
    "captions": pa.string(),
    "boxes": pa.string(),
    "licence": pa.string(),
    "conversation": pa.string(),
    "picture": pa.string(),
    "picture_file": pa.string(),
    "picture_offset": pa.int64(),
    "picture_size": pa.int64(),
    "text_only": pa.bool_(),
    "broken": pa.bool_(),
}


class Form(ABC):
    """A reader of one form of source.

    Args:
        places: what `source.table` names, in the order in which it is to be read; never empty.

    Raises:
        InputError: the recipe has a key that the form has no use for.
    """

    #: Suffixes of the files that are of this form.
    suffixes: ClassVar[tuple[str, ...]] = ()
    #: Keys of the recipe without which others do, and that the form does not take.
    refuses: ClassVar[tuple[str, ...]] = ()

    def __init__(self, settings: SourceSettings, places: list[Place]) -> None:
        for key in self.refuses:
            if getattr(settings, key) is not None:
                raise InputError(f"source.{key}: the form {self.name} has no use for this key; leave it out")
        self.settings = settings
        self.places = places

    @property
    def name(self) -> str:
        """The name of the file that the form stands in."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def where(self) -> str:
        """The source, for messages."""
        more = len(self.places) - 1
        return self.places[0].location + (f" and {more} more" if more else "")

    @classmethod
    def fits(cls, place: Place) -> bool:
        """Whether `place` is of this form, by its name or by a short look into it. At most one form may fit."""
        return place.suffix in cls.suffixes

    def check(self) -> None:  # noqa: B027
        """Looks, before any work, for what would stop it later.

        Raises:
            InputError: a file cannot be read or lacks a column that the recipe names.
        """

    @abstractmethod
    def tables(self) -> Iterator[pa.Table]:
        """The rows in order, in tables of any length with columns as `stages.source.rows.Rows.add` takes them.

        Raises:
            InputError: a file cannot be read.
        """

    def facts(self) -> list[str]:
        """Digests of what the rows depend on."""
        return [place.digest() for place in self.places]

    def count(self) -> int | None:
        """The number of rows where that costs little to know."""
        return None

    def require(self, place: Place, columns: dict[str, str], there: Iterable[str]) -> None:
        """Checks that columns are there.

        Args:
            columns: key of the recipe -> the column it names.

        Raises:
            InputError: naming the key, the nearest column, and those there.
        """
        there = list(there)
        for name, column in columns.items():
            if column not in there:
                near = difflib.get_close_matches(column, there, n=1)
                hint = f"did you mean '{near[0]}'? " if near else ""
                raise InputError(
                    f"source.{name}: {place.location} has no column '{column}'; {hint}"
                    f"The columns there are: {', '.join(there)}"
                )


class RecordForm(Form):
    """A form that is read record by record, so that one broken record is one bad row."""

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """The rows in order: values by column, as `stages.source.rows.Rows.add` names them; others are null.

        Values may be of any kind: what is not text where text should be becomes null, and lists go on as JSON text,
        which is checked there.
        """

    def tables(self) -> Iterator[pa.Table]:
        records = self.records()
        while batch := list(islice(records, self.settings.rows_per_part)):
            yield _table(batch)

    def mapped(self, item: Record) -> Record:
        """The values of the columns that the recipe names, under our names."""
        return {name: item.get(column) for name, column in self.settings.columns().items()}

    def require_pictures(self, urls: Iterable[Any]) -> None:
        """Checks that pictures can be had: by `source.pictures`, or at the address of some first row.

        Raises:
            InputError: the first rows hold names of files alone.
        """
        named = [url for url in islice(urls, self.settings.rows_per_part) if has_text(url)]
        if self.settings.pictures is None and named and not any("://" in url for url in named):
            raise InputError(
                f"source.pictures: {self.where} names files, for example {named[0]!r}, and no addresses; "
                "say here in which folder or under which address they lie"
            )

    def asked(self) -> dict[str, str]:
        """Key -> column, of those columns that a form of files can do without and that the recipe names."""
        default = {"url": self.settings.url, "caption": CAPTION}
        return {name: column for name, column in self.settings.columns().items() if default.get(name) != column}


def caption_of(
    settings: SourceSettings, text: bytes | None, facts: Record, fields: tuple[str, ...] = (CAPTION,)
) -> str | None:
    """The caption of a picture with files beside it: their text, else the first of `fields` that they hold.

    Where the recipe names a field of its own, it is that field alone.
    """
    said = None if text is None else text.decode("utf-8", "surrogateescape").strip()
    named = settings.caption != CAPTION
    found = [facts.get(settings.caption)] if named else [said, *(facts.get(field) for field in fields)]
    return next((each for each in found if has_text(each)), None)


def load_json(place: Place) -> Any:
    """A JSON file's value; the file is loaded whole.

    Raises:
        InputError: it cannot be read or is not JSON.
    """
    with place.open() as file:
        content = file.read()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"source.table: {place.location} is not JSON ({error}); where it holds one object a line, "
            "say source.form: jsonl"
        ) from error


def _table(records: list[Record]) -> pa.Table:
    arrays = {}
    for name, kind in _COLUMNS.items():
        if not any(name in record for record in records):
            continue
        values = [record.get(name) for record in records]
        if name in _LISTS:
            values = [value if value is None or isinstance(value, str) else to_json(value) for value in values]
        if pa.types.is_boolean(kind):
            values = [bool(value) for value in values]
        elif pa.types.is_string(kind):
            values = [value if is_text(value) else None for value in values]
        arrays[name] = pa.array(values, kind)
    return pa.table(arrays)
