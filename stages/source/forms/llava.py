"""LLaVA's JSON (Liu et al. 2023): a list of {id, image, conversations: [{from: human | gpt, value}, ...]}.

A record's own `caption`, or else its first answer, stands as the caption, which is what pictures are scored against.
Records without an `image` are text-only instruction data: rows that need no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError
from stages.source.columns import has_text, is_text, to_json
from stages.source.forms.base import Record, RecordForm, load_json
from stages.source.places import Place


class Llava(RecordForm):
    suffixes = (".json",)

    @classmethod
    def fits(cls, place: Place) -> bool:
        return super().fits(place) and place.first_sign() == b"["

    def check(self) -> None:
        first = list(islice(self._items, self.settings.rows_per_part))
        asked = {name: column for name, column in self.asked().items() if name != "caption"}
        self.require(self.places[0], asked, sorted({name for item in first for name in item}))
        self.require_pictures(self._record(item)["url"] for item in first)

    def records(self) -> Iterator[Record]:
        for item in self._items:
            yield self._record(item)

    def count(self) -> int:
        return len(self._items)

    @cached_property
    def _items(self) -> list[Record]:
        items: list[Record] = []
        for place in self.places:
            data = load_json(place)
            if not isinstance(data, list) or (data and not any(_talks(item) for item in data)):
                raise InputError(
                    f"source.table: {place.location} is no LLaVA file, which is a list of objects with `image` and "
                    "`conversations`; where it is of another form, name it in source.form"
                )
            items += [item if isinstance(item, dict) else {} for item in data]
        return items

    def _record(self, item: Record) -> Record:
        record = self.mapped(item)
        image = item.get("image")
        record["picture"] = image
        if not has_text(record["url"]):
            record["url"] = image
        turns = item.get("conversations")
        if not (isinstance(turns, list) and turns and all(map(_is_turn, turns))):
            return record | {"broken": True}
        text_only = image is None and not any(IMAGE_TOKEN in turn["value"] for turn in turns)
        if not (text_only or is_text(image)):
            return record | {"broken": True}
        if not has_text(record["caption"]):
            record["caption"] = next((turn["value"] for turn in turns if turn["from"] == "gpt"), None)
        return record | {"conversation": to_json(turns), "text_only": text_only}


def _talks(item: Any) -> bool:
    return isinstance(item, dict) and "conversations" in item


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, dict) and is_text(turn.get("from")) and is_text(turn.get("value"))
