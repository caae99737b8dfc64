"""JSON lines: one object a line. They are read line by line, because one broken line is one bad row."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import cast

from stages.source.columns import from_json
from stages.source.forms.base import Record, RecordForm
from stages.source.places import Place


class JsonLines(RecordForm):
    suffixes = (".jsonl", ".ndjson")

    def check(self) -> None:
        for place in self.places:
            names: dict[str, None] = {}
            objects = list(islice(_objects(place), self.settings.rows_per_part))
            for item in objects:
                names.update(dict.fromkeys(item))
            if objects:
                self.require(place, self.settings.columns(), sorted(names))

    def records(self) -> Iterator[Record]:
        for place in self.places:
            for item in _objects(place):
                yield self.mapped(item)


def _objects(place: Place) -> Iterator[Record]:
    """What stands in each line that is not blank; nothing, for a line that holds no object."""
    with place.open() as file:
        for line in io.BufferedReader(cast(io.RawIOBase, file), 1 << 20):
            if line.strip():
                value = from_json(line)
                yield value if isinstance(value, dict) else {}
