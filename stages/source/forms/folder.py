"""A folder of pictures, with a caption file beside each, or with a table of captions as Hugging Face's ImageFolder has.

Beside `a/1.jpg` may lie `a/1.txt`, which is its caption, and `a/1.json`, an object (img2dataset's output form `files`
has both). A `metadata.jsonl` or `metadata.csv` tells of files in its own folder, named by its column `file_name`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from schemas.errors import InputError
from schemas.identity import digest
from stages.source.columns import from_json, has_text
from stages.source.forms.base import Record, RecordForm, caption_of
from stages.source.places import Place

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}
_BESIDE = (".txt", ".json")
_METADATA = ("metadata.jsonl", "metadata.csv")
_FILE_NAME = "file_name"


class Folder(RecordForm):
    refuses = ("pictures",)

    @classmethod
    def fits(cls, place: Place) -> bool:
        if not place.folder or ".tar" in place.top_suffixes():
            return False
        return any(each.suffix in _PICTURES for each in place.entries())

    def check(self) -> None:
        asked = self.asked()
        for listing in self._listings if asked else []:
            items = list(islice(listing.items(self.settings.rows_per_part), self.settings.rows_per_part))
            names = {name for item in items for name in item.facts}
            self.require(listing.place, asked, sorted(names))

    def records(self) -> Iterator[Record]:
        for listing in self._listings:
            for item in listing.items(self.settings.rows_per_part):
                record = self.mapped(item.facts)
                record["caption"] = caption_of(self.settings, item.text, item.facts, ("text", "caption"))
                if not has_text(record["url"]):
                    record["url"] = item.name
                if item.picture is None or item.broken:
                    yield record | {"broken": True}
                else:
                    yield record | {"picture_file": item.picture.location, "picture_size": item.picture.size}

    def facts(self) -> list[str]:
        return [text for listing in self._listings for text in (listing.place.location, listing.digest())]

    @cached_property
    def _listings(self) -> list[_Listing]:
        for place in self.places:
            if not place.folder:
                raise InputError(f"source.table: {place.location} is no folder, which the form folder needs")
        return [_Listing(place) for place in self.places]


class _Item(NamedTuple):
    name: str | None  # the picture's path from the folder; None where a line of metadata names none
    picture: Place | None
    text: bytes | None  # of the .txt beside it
    facts: Record  # from metadata and from the .json beside it
    broken: bool


class _Listing:
    """The files of one folder, and what its metadata files say of them. Both are held whole."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._files = {each.name: each for each in place.files()}
        self._said: dict[str, list[Record]] = {}  # picture -> the metadata records that name it
        self._nameless: list[Record] = []
        for each in self._files.values():
            if PurePosixPath(each.name).name in _METADATA:
                self._read(each)

    def digest(self) -> str:
        """Of the pictures' names and sizes, and of the content of the text files."""
        total = ""
        for each in self._files.values():
            if each.suffix in _PICTURES:
                total = digest([total, each.facts()])
            elif each.suffix in _BESIDE or PurePosixPath(each.name).name in _METADATA:
                total = digest([total, each.name, each.digest()])
        return total

    def items(self, batch: int) -> Iterator[_Item]:
        """Every picture once for each metadata record that names it, or once; then the records that name no file.

        Args:
            batch: the number of pictures whose text files are read at a time.
        """
        pictures = {name for name, place in self._files.items() if place.suffix in _PICTURES}
        names = iter(sorted(pictures | self._said.keys()))
        while some := list(islice(names, batch)):
            beside = [_beside(name, suffix) for name in some for suffix in _BESIDE]
            there = [self._files[name] for name in beside if name in self._files]
            contents = dict(zip((place.name for place in there), self.place.read_many(there), strict=True))
            for name in some:
                text = contents.get(_beside(name, ".txt"))
                json_name = _beside(name, ".json")
                value = from_json(contents[json_name] or b"") if json_name in contents else {}
                own = value if isinstance(value, dict) else {}
                picture = self._files.get(name) if name in pictures else None
                for said in self._said.get(name, [{}]):
                    yield _Item(name, picture, text, said | own, own is not value)
        for said in self._nameless:
            yield _Item(None, None, None, said, True)

    def _read(self, metadata: Place) -> None:
        with metadata.open() as file:
            if metadata.suffix == ".jsonl":
                records = [from_json(line) for line in file if line.strip()]
            else:
                records = _read_csv(file, metadata)
        for record in records:
            facts = record if isinstance(record, dict) else {}
            name = facts.get(_FILE_NAME)
            if has_text(name):
                self._said.setdefault(str(PurePosixPath(metadata.name).parent / name), []).append(facts)
            else:
                self._nameless.append(facts)


def _beside(name: str, suffix: str) -> str:
    return name.rpartition(".")[0] + suffix


def _read_csv(file: BinaryIO, place: Place) -> list[Any]:
    try:
        return list(csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"source.table: cannot read {place.location}: {error}") from error
