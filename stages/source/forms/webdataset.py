"""Tars in which a sample's members stand side by side, as WebDataset and img2dataset write them.

The pictures stay where they are: a row holds the tar, and the picture's place in it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import cached_property
from itertools import groupby, islice
from typing import NamedTuple

from schemas.errors import InputError
from stages.source.columns import from_json, has_text
from stages.source.forms.base import Record, RecordForm, caption_of
from stages.source.places import Place

_PICTURES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("txt", "json")


class _Member(NamedTuple):
    key: str  # the path up to the first dot of the file's name
    ending: str  # what follows that dot, in small letters
    name: str
    offset: int
    size: int
    text: bytes | None  # of a txt or json member


class WebDataset(RecordForm):
    suffixes = (".tar",)
    refuses = ("pictures",)

    @classmethod
    def fits(cls, place: Place) -> bool:
        return ".tar" in place.top_suffixes() if place.folder else super().fits(place)

    def check(self) -> None:
        for tar in self._tars[:1]:
            samples = list(islice(_samples(tar), self.settings.rows_per_part))
            names = sorted({name for sample in samples for name in _facts(sample)})
            if samples:
                self.require(tar, self.asked(), names)

    def records(self) -> Iterator[Record]:
        for tar in self._tars:
            for sample in _samples(tar):
                yield self._record(tar, sample)

    def facts(self) -> list[str]:
        return [text for tar in self._tars for text in (tar.location, tar.facts())]

    @cached_property
    def _tars(self) -> list[Place]:
        tars = []
        for place in self.places:
            tars += [each for each in place.files() if each.suffix == ".tar"] if place.folder else [place]
        if not tars:
            raise InputError(f"source.table: {self.where} holds no .tar files")
        return tars

    def _record(self, tar: Place, sample: dict[str, _Member]) -> Record:
        facts = _facts(sample)
        record = self.mapped(facts)
        text = sample["txt"].text if "txt" in sample else None
        record["caption"] = caption_of(self.settings, text, facts)
        unread = "json" in sample and not isinstance(from_json(sample["json"].text or b""), dict)
        picture = next((sample[ending] for ending in _PICTURES if ending in sample), None)
        first = picture or next(iter(sample.values()))
        if not has_text(record["url"]):
            record["url"] = f"{tar.name}/{first.name}"
        if picture is None or unread:
            return record | {"broken": True}
        place = {"picture_file": tar.location, "picture_offset": picture.offset, "picture_size": picture.size}
        return record | place


def _facts(sample: dict[str, _Member]) -> Record:
    value = from_json(sample["json"].text or b"") if "json" in sample else None
    return value if isinstance(value, dict) else {}


def _samples(tar: Place) -> Iterator[dict[str, _Member]]:
    """The samples of a tar: ending -> member."""
    for _, members in groupby(_members(tar), key=lambda member: member.key):
        sample: dict[str, _Member] = {}
        for member in members:
            sample.setdefault(member.ending, member)
        yield sample


def _members(place: Place) -> Iterator[_Member]:
    with place.open() as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every header that it has read
            folder, _, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if not (member.isreg() and stem and dot):
                continue
            ending = ending.lower()
            content = tar.extractfile(member) if ending in _TEXTS else None
            text = content.read() if content is not None else None
            yield _Member(f"{folder}/{stem}", ending, member.name, member.offset_data, member.size, text)
        file.seek(tar.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError(f"no header at byte {tar.offset}; the file is broken or cut short")
