"""Visual Genome's JSON (Krishna et al. 2017), as visualgenome.org publishes it: one list a file, joined by the picture.

`image_data.json` makes the rows. `region_descriptions.json` gives captions, those of larger regions first; of
`objects.json` come boxes, and of `question_answers.json` conversations. Any but the first may be missing. A file is
known by what its entries hold, not by its name; name one file with objects alone (`scene_graphs.json` has them too).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError
from stages.source.columns import has_text, to_json
from stages.source.forms.base import Record, RecordForm, load_json
from stages.source.places import Place

log = logging.getLogger("sluice")

_LICENCE = "https://creativecommons.org/licenses/by/4.0/"
_LISTS = ("regions", "objects", "qas")


class VisualGenome(RecordForm):
    refuses = ("captions", "boxes", "licence")

    @classmethod
    def fits(cls, place: Place) -> bool:
        """Never by itself: its files look like LLaVA's from outside, so the recipe says `form: visual_genome`."""
        return False

    def check(self) -> None:
        if self.settings.box_form != "xywh" or self.settings.box_units != "pixels":
            raise InputError("source.box_form, box_units: Visual Genome's boxes are xywh in pixels; leave both out")
        self.require_pictures(record["url"] for record in self._rows)

    def records(self) -> Iterator[Record]:
        yield from self._rows

    def count(self) -> int:
        return len(self._rows)

    @cached_property
    def _rows(self) -> list[Record]:
        pictures: dict[int | str, Record] = {}
        notes: dict[str, dict[int | str, list[Any]]] = {name: {} for name in _LISTS}
        for place in self.places:
            for entry in _load(place):
                key = entry.get("image_id", entry.get("id"))
                if not isinstance(key, int | str):
                    continue
                if "url" in entry and "width" in entry:
                    pictures.setdefault(key, entry)
                for name in _LISTS:
                    if isinstance(entry.get(name), list):
                        notes[name].setdefault(key, []).extend(_objects(entry[name]))
        if not pictures:
            raise InputError(
                f"source.table: no entry of {self.where} has `url` and `width`, as image_data.json has them"
            )
        stray = set().union(*notes.values()) - set(pictures)
        if stray:
            log.warning("%s: notes on %d pictures that are not there are left out", self.where, len(stray))
        return [_record(key, entry, {name: found.get(key) for name, found in notes.items()})
                for key, entry in pictures.items()]  # fmt: skip


def _record(key: int | str, entry: Record, notes: dict[str, list[Record] | None]) -> Record:
    url = entry.get("url")
    # Pictures are published in the two folders that their addresses name.
    picture = "/".join(url.split("/")[-2:]) if has_text(url) else None
    regions = sorted(notes["regions"] or [], key=_area, reverse=True)
    captions = [region["phrase"].strip() for region in regions if has_text(region.get("phrase"))]
    record: Record = {"url": url, "picture": picture, "licence": _LICENCE, "captions": captions}
    record["caption"] = captions[0] if captions else None
    if notes["objects"] is not None:
        record["boxes"] = [_box(item) for item in notes["objects"]]
    turns = [
        [{"from": "human", "value": pair["question"]}, {"from": "gpt", "value": pair["answer"]}]
        for pair in notes["qas"] or []
        if has_text(pair.get("question")) and has_text(pair.get("answer"))
    ]
    if turns:
        turns[0][0]["value"] = f"{IMAGE_TOKEN}\n{turns[0][0]['value']}"
        record["conversation"] = to_json([said for pair in turns for said in pair])
        record["caption"] = record["caption"] or turns[0][1]["value"]
    return record


def _box(item: Record) -> Record:
    names = item.get("names")
    label = names[0] if isinstance(names, list) and names else item.get("name")
    return {"label": label, **{side: item.get(side) for side in ("x", "y", "w", "h")}}


def _area(region: Record) -> float:
    sides = [region.get("width"), region.get("height")]
    return sides[0] * sides[1] if all(isinstance(side, int | float) for side in sides) else 0  # type: ignore[operator]


def _objects(items: list[Any]) -> list[Record]:
    return [item for item in items if isinstance(item, dict)]


def _load(place: Place) -> list[Record]:
    data = load_json(place)
    if not isinstance(data, list):
        raise InputError(f"source.table: {place.location} is no file of Visual Genome, which holds a list of objects")
    return _objects(data)
