"""COCO's JSON (Lin et al. 2014): captions and instances of the same pictures, joined by the picture's id.

A row is an entry of `images`; the same id in a second file is the same row. Annotations that ask for a crowd of objects
(`iscrowd`) are left out: their box is no object's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from schemas.errors import InputError
from stages.source.boxes import box_from_numbers
from stages.source.columns import has_text
from stages.source.forms.base import Record, RecordForm, load_json
from stages.source.places import Place

log = logging.getLogger("sluice")


@dataclass
class _Notes:
    """What the annotations say of one picture."""

    captions: list[Any] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    #: Whether a file that tells of objects holds the picture, so that no box means no object.
    searched: bool = False


class Coco(RecordForm):
    suffixes = (".json",)
    refuses = ("captions", "boxes", "licence")

    @classmethod
    def fits(cls, place: Place) -> bool:
        return super().fits(place) and place.first_sign() == b"{"

    def check(self) -> None:
        self.require_pictures(record.get("url") for record in self._rows)

    def records(self) -> Iterator[Record]:
        yield from self._rows

    def count(self) -> int:
        return len(self._rows)

    @cached_property
    def _rows(self) -> list[Record]:
        images: list[tuple[Record, _Notes | None]] = []
        known: dict[int | str | None, _Notes] = {}
        for place in self.places:
            data = _load(place)
            licences = _by_id(data.get("licenses"))
            earlier = set(known)
            for image in data["images"]:
                entry = image if isinstance(image, dict) else {}
                key = _key(entry.get("id"))
                notes = None if key is None else known.setdefault(key, _Notes())
                if notes is not None:
                    notes.searched |= "categories" in data
                if key not in earlier:
                    licence = licences.get(_key(entry.get("license")), {})
                    images.append((entry | {"licence": licence.get("url") or licence.get("name")}, notes))
            self._annotate(known, data, place)
        return [_record(image, notes) for image, notes in images]

    def _annotate(self, known: dict[int | str | None, _Notes], data: Record, place: Place) -> None:
        labels = {key: category.get("name") for key, category in _by_id(data.get("categories")).items()}
        stray = 0
        for annotation in data["annotations"]:
            entry = annotation if isinstance(annotation, dict) else {}
            notes = known.get(_key(entry.get("image_id")))
            if notes is None:
                stray += 1
                continue
            if "caption" in entry:
                notes.captions.append(entry["caption"])
            if "bbox" in entry and not entry.get("iscrowd"):
                label = labels.get(_key(entry.get("category_id")))
                notes.boxes.append(box_from_numbers(label, entry["bbox"], self.settings))
        if stray:
            log.warning("%s: %d annotations belong to no picture of the file and are left out", place.location, stray)


def _record(image: Record, notes: _Notes | None) -> Record:
    names = [image.get(name) for name in ("coco_url", "flickr_url", "file_name")]
    record = {
        "url": next((name for name in names if has_text(name)), None),
        "picture": image.get("file_name"),
        "licence": image["licence"],
    }
    if notes is None:
        return record | {"broken": True}
    caption = notes.captions[0] if notes.captions else None
    boxes = notes.boxes if notes.searched or notes.boxes else None
    return record | {"caption": caption, "captions": notes.captions, "boxes": boxes}


def _load(place: Place) -> Record:
    data = load_json(place)
    if not (isinstance(data, dict) and all(isinstance(data.get(name), list) for name in ("images", "annotations"))):
        raise InputError(
            f"source.table: {place.location} is no COCO file, which is an object with the lists `images` and "
            "`annotations`; where it is of another form, name it in source.form"
        )
    return data


def _by_id(items: Any) -> dict[int | str | None, Record]:
    found = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    return {key: item for item in found if (key := _key(item.get("id"))) is not None}


def _key(value: Any) -> int | str | None:
    return value if isinstance(value, int | str) else None
