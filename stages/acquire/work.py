"""The acquire stage: downloads a part's pictures, decodes and shrinks them, and writes img2dataset's layout."""

from __future__ import annotations

import errno
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pyarrow as pa

from schemas.errors import SluiceError
from schemas.tables import SAMPLES
from schemas.vocabulary import Reason
from stages.acquire.engine import Engine, Outcome, dropped, make_engine
from stages.acquire.settings import AcquireSettings
from stages.graph import PartOutput, PartWork, Place
from stages.run_folder import RunFolder
from stages.source import Pictures, SourceSettings
from stages.tar import read_members, tar_bytes

#: Rows a part may hold: the place in the part has four digits of the key.
MOST_ROWS = 10_000
#: Reasons that img2dataset counts as a failure to resize; all others are failures to download.
_DECODE_REASONS = {
    Reason.NOT_A_PICTURE,
    Reason.DECODE_ERROR,
    Reason.TOO_MANY_PIXELS,
    Reason.TOO_FEW_PIXELS,
    Reason.BAD_BOXES,
}
#: How far a box may reach beyond the picture, in shares of its side: annotators are not exact. Wrong units or a wrong
#: form of the numbers reach further.
_BOX_LEEWAY = 0.05
_READERS = 16
_SOURCE_COLUMNS = [
    "sample_id", "row", "url", "caption", "reason", "boxes", "text_only", "picture_file", "picture_offset",
    "picture_size",
]  # fmt: skip
#: What the json member of a sample holds: img2dataset's keys, and the sample's id.
_JSON_KEYS = [
    "key",
    "url",
    "caption",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
    "sample_id",
]

#: Outcomes that may be others when asked for again.
_TRANSIENT = {reason.value for reason in Reason if reason.info.transient}

Row = dict[str, Any]


class AcquireWork(PartWork):
    """RUN/source/<part>.parquet to RUN/samples/<part>.tar, .parquet and _stats.json.

    Pictures that the source has already are read, all others are downloaded. A row that is about no picture is a
    success without one.

    Counts are by outcome: "success" and each reason, those given by the source stage included, so that they add up to
    the part's rows. With `retry_failed`, a part that is done but holds rows dropped for a transient reason is done
    again for those rows alone.

    Args:
        source: the units of its boxes, and how its stored pictures are reached.
    """

    stage: ClassVar[str] = "acquire"
    version: ClassVar[int] = 4
    upstream: ClassVar[tuple[str, ...]] = ("source",)

    def __init__(
        self,
        run: RunFolder,
        settings: AcquireSettings,
        retry_failed: bool = False,
        source: SourceSettings | None = None,
    ) -> None:
        super().__init__(run)
        self._settings = settings
        self._retry_failed = retry_failed
        self._fractions = source is not None and source.box_units == "fractions"
        self._storage = source.storage_options if source else {}
        self._engine: Engine | None = None
        self._making = threading.Lock()

    def settings(self) -> dict[str, Any]:
        return self._settings.content()

    def done(self, part: int) -> bool:
        return super().done(part) and not self._must_retry(part)

    def process(self, part: int) -> dict[str, int]:
        key = self.key(part)
        if self.run.is_done(self.stage, part, key) and self._must_retry(part):
            output = self._acquire(part, self._settled(part))
            # Until the new files are all in place, no manifest may vouch for a mixture of old and new ones.
            self.run.commit(self.stage, part, "being retried", {}, {})
            self.run.commit(self.stage, part, key, output.files, output.counts, version=self.version)
        return super().process(part)

    def compute(self, part: int) -> PartOutput:
        return self._acquire(part, {})

    @property
    def engine(self) -> Engine:
        """What downloads; made when the first part needs it, and shared by all parts that are under way."""
        with self._making:
            if self._engine is None:
                self._engine = make_engine(self._settings)
        return self._engine

    def close(self) -> None:
        """Ends the engine's threads and connections."""
        if self._engine is not None:
            self._engine.close()

    def _must_retry(self, part: int) -> bool:
        counts = (self.run.manifest(self.stage, part) or {"counts": {}})["counts"]
        return self._retry_failed and not _TRANSIENT.isdisjoint(counts)

    def _settled(self, part: int) -> dict[str, tuple[Row, bytes | None]]:
        """Rows of a done part that are not to be asked for again, with their pictures, by key."""
        pictures = dict(read_members(self.run.path("samples", f"{part:05d}.tar"), "jpg"))
        rows = self.run.read_table("samples", [part]).to_pylist()
        return {row["key"]: (row, pictures.get(row["key"])) for row in rows if row["reason"] not in _TRANSIENT}

    def _acquire(self, part: int, settled: Mapping[str, tuple[Row, bytes | None]]) -> PartOutput:
        source = self.run.read_table("source", [part], _SOURCE_COLUMNS).to_pylist()
        if len(source) > MOST_ROWS:
            raise SluiceError(f"part {part} has {len(source)} rows; a part may have {MOST_ROWS} at most")
        given = {f"{part:05d}{index:04d}": row for index, row in enumerate(source)}
        rows = {key: {name: row.get(name) for name in SAMPLES.names} | {"key": key} for key, row in given.items()}
        pictures = {key: picture for key, (_, picture) in settled.items() if picture is not None}
        rows.update((key, row) for key, (row, _) in settled.items())
        wanted = [
            key for key, row in rows.items() if key not in settled and row["reason"] is None and not row["text_only"]
        ]
        for key, (found, picture) in self._fetch({key: given[key] for key in wanted}):
            rows[key].update(found)
            if picture is not None and self._place_boxes(rows[key]):
                pictures[key] = picture
        for row in rows.values():
            row["status"] = _status(row["reason"])
            if row["reason"] is not None:
                row["boxes"] = None
        return _output(part, list(rows.values()), pictures)

    def _fetch(self, rows: Mapping[str, Row]) -> Iterator[tuple[str, Outcome]]:
        """The outcome of every row, by key; in no order."""
        web = [key for key, row in rows.items() if row["picture_file"] is None]
        stored = [key for key, row in rows.items() if row["picture_file"] is not None]
        if web:
            yield from zip(web, self.engine.acquire([rows[key]["url"] for key in web]), strict=True)
        if stored:
            here = threading.local()
            with ThreadPoolExecutor(_READERS, "read") as readers:
                yield from zip(stored, readers.map(lambda key: self._read(rows[key], here), stored), strict=True)

    def _read(self, row: Row, here: threading.local) -> Outcome:
        """Reads and decodes a stored picture. `here` keeps each thread's open file."""
        if not hasattr(here, "pictures"):
            here.pictures = Pictures(self._storage, self._settings.max_bytes)
        try:
            body = here.pictures.read(row["picture_file"], row["picture_offset"], row["picture_size"])
        except OSError as error:
            large = error.errno == errno.EFBIG
            return dropped(Reason.TOO_LARGE if large else Reason.NO_FILE, str(error))
        return self.engine.decode(body)

    def _place_boxes(self, row: Row) -> bool:
        """Brings a row's boxes to pixels of its original picture; False, with the reason, where one does not fit."""
        sides = {"x": row["original_width"], "y": row["original_height"]}
        sides |= {"w": sides["x"], "h": sides["y"]}
        if self._fractions and row["boxes"]:
            row["boxes"] = [box | {name: box[name] * side for name, side in sides.items()} for box in row["boxes"]]
        for box in row["boxes"] or []:
            for name, span in (("x", "w"), ("y", "h")):
                leeway = 1 + _BOX_LEEWAY * sides[name]
                if box[name] < -leeway or box[name] + box[span] > sides[name] + leeway:
                    row["reason"] = Reason.BAD_BOXES
                    row["error_message"] = (
                        f"box '{box['label']}' goes from {name} {box[name]:g} to {box[name] + box[span]:g}, "
                        f"the picture from 0 to {sides[name]}"
                    )
                    return False
        return True


def acquire_place(
    run: RunFolder, settings: AcquireSettings, retry_failed: bool = False, source: SourceSettings | None = None
) -> Place:
    """The stage's place in the graph. Its actors wait more than they compute, so they hold half a CPU each."""
    return Place(
        lambda: AcquireWork(run, settings, retry_failed, source),
        num_cpus=0.5,
        actors=settings.actors,
        parts_at_once=settings.parts_at_once,
    )


def _output(part: int, rows: list[Row], pictures: Mapping[str, bytes]) -> PartOutput:
    """The part's files. `rows` stand in source order, which is the order of their keys."""
    members: list[tuple[str, bytes]] = []
    for row in rows:
        if (picture := pictures.get(row["key"])) is not None:
            facts = json.dumps({name: row[name] for name in _JSON_KEYS}, ensure_ascii=False, sort_keys=True)
            members += [
                (f"{row['key']}.jpg", picture),
                (f"{row['key']}.json", facts.encode()),
                (f"{row['key']}.txt", row["caption"].encode()),
            ]
    tar, _ = tar_bytes(members)
    counts = dict(sorted(Counter(str(row["reason"] or "success") for row in rows).items()))
    statuses = Counter(row["status"] for row in rows)
    stats = {
        "count": len(rows),
        "successes": statuses["success"],
        "failed_to_download": statuses["failed_to_download"],
        "failed_to_resize": statuses["failed_to_resize"],
        "status_dict": counts,
    }
    name = f"samples/{part:05d}"
    return PartOutput(
        files={
            f"{name}.tar": tar,
            f"{name}.parquet": pa.Table.from_pylist(rows, schema=SAMPLES),
            f"{name}_stats.json": json.dumps(stats, indent=1).encode(),
        },
        counts=counts,
    )


def _status(reason: str | None) -> str:
    if reason is None:
        return "success"
    return "failed_to_resize" if reason in _DECODE_REASONS else "failed_to_download"
