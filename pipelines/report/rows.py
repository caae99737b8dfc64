"""Finds the rows of a run that the report shows, and their pictures. Reads pictures of the rows shown and no others."""

from __future__ import annotations

import base64
import io
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from schemas.errors import SluiceError
from schemas.tables import SAMPLES
from schemas.vocabulary import State
from stages.run_folder import RunFolder
from stages.store import read_parquet

#: Longer side of a thumbnail, pixels.
THUMBNAIL_PX = 160
_QUALITY = 78
_LIGHT = ["sample_id", "state", "stage", "reason", "clip_score", "duplicate_of", "split"]


@dataclass(frozen=True)
class Box:
    """A box in shares of the picture's sides, from the upper left."""

    label: str
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Shown:
    """One row of the source as the report shows it.

    Attributes:
        link: the url where a browser may follow it (http and https), else None.
        width, height: pixels of the original picture.
        boxes: those known of it, as shares of its sides.
        jpeg: the picture as stored; None where none was acquired.
    """

    sample_id: str
    row: int
    url: str | None
    link: str | None
    caption: str | None
    state: str
    reason: str | None
    http_status: int | None
    message: str | None
    width: int | None
    height: int | None
    phash: str | None
    clip_score: float | None
    boxes: list[Box]
    jpeg: bytes | None

    @property
    def thumbnail(self) -> str | None:
        """The picture as a data: URL."""
        return None if self.jpeg is None else thumbnail(open_rgb(self.jpeg))


class Rows:
    """The ledger's short columns over all rows, and all there is to know of a few chosen rows.

    Args:
        run: a run whose ledger is written.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def ledger(self) -> pa.Table:
        """The columns `sample_id`, `state`, `stage`, `reason`, `clip_score`, `duplicate_of`, `split`, and `part`."""
        tables = []
        for part in self.run.parts():
            if (path := self.run.table_path("ledger", part)).exists():
                table = read_parquet(path, columns=_LIGHT)
                tables.append(table.append_column("part", pa.array([part] * len(table), pa.int32())))
        if not tables:
            raise SluiceError(f"{self.run.path('ledger')} holds no tables yet: run the data stages first")
        return pa.concat_tables(tables)

    def kept(self) -> pa.Table:
        return self.ledger.filter(pc.equal(self.ledger["state"], State.KEPT.value))

    def dropped_for(self, reason: str) -> pa.Table:
        return self.ledger.filter(pc.equal(self.ledger["reason"], reason))

    def spread(self, rows: pa.Table, number: int) -> list[str]:
        """`number` sample ids of `rows`: evenly over the CLIP scores, best first; by id where there are no scores."""
        rows = rows.sort_by([("clip_score", "descending"), ("sample_id", "ascending")])
        if len(rows) > number:
            last = max(number - 1, 1)
            rows = rows.take([round(place * (len(rows) - 1) / last) for place in range(number)])
        return rows["sample_id"].to_pylist()

    def show(self, ids: Iterable[str], pictures: bool = True) -> dict[str, Shown]:
        """All there is to know of these samples, in their order; samples of no row of the run are left out.

        Args:
            pictures: False leaves them out.
        """
        wanted = list(dict.fromkeys(ids))
        by_part = self._by_part(wanted)
        found: dict[str, Shown] = {}
        for part, members in by_part.items():
            found.update(self._show_part(part, members, pictures))
        return {identity: found[identity] for identity in wanted if identity in found}

    def samples(self, ids: Iterable[str], columns: list[str]) -> pa.Table:
        """These columns of `schemas.tables.SAMPLES`, and `sample_id`, in any order."""
        tables = [SAMPLES.empty_table().select(["sample_id", *columns])]
        for part, members in self._by_part(ids).items():
            if (path := self.run.table_path("samples", part)).exists():
                wanted = [("sample_id", "in", members)]
                tables.append(read_parquet(path, columns=["sample_id", *columns], filters=wanted))
        return pa.concat_tables(tables, promote_options="default")

    def cosines(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
        """For each pair of samples the cosine of their pictures' CLIP vectors, where both have one."""
        vectors: dict[str, list[float]] = {}
        for part, members in self._by_part({identity for pair in pairs for identity in pair}).items():
            path = self.run.table_path("vectors", part)
            if path.exists():
                table = read_parquet(path, columns=["sample_id", "vector"], filters=[("sample_id", "in", members)])
                vectors.update(zip(table["sample_id"].to_pylist(), table["vector"].to_pylist(), strict=True))
        return {
            (a, b): float(sum(x * y for x, y in zip(vectors[a], vectors[b], strict=True)))
            for a, b in pairs
            if a in vectors and b in vectors
        }

    def _by_part(self, ids: Iterable[str]) -> dict[int, list[str]]:
        wanted = pa.array(sorted(ids), pa.string())
        chosen = self.ledger.filter(pc.is_in(self.ledger["sample_id"], wanted))
        by_part: dict[int, list[str]] = defaultdict(list)
        for identity, part in zip(chosen["sample_id"].to_pylist(), chosen["part"].to_pylist(), strict=True):
            by_part[part].append(identity)
        return dict(by_part)

    def _show_part(self, part: int, ids: list[str], with_pictures: bool) -> dict[str, Shown]:
        wanted = [("sample_id", "in", ids)]
        rows = read_parquet(self.run.table_path("ledger", part), filters=wanted).to_pylist()
        samples: dict[str, dict[str, Any]] = {}
        if (path := self.run.table_path("samples", part)).exists():
            columns = ["sample_id", "key", "error_message", "boxes"]
            samples = {row["sample_id"]: row for row in read_parquet(path, columns=columns, filters=wanted).to_pylist()}
        keys = {row["key"] for row in samples.values()}
        pictures = self._pictures(part, keys) if with_pictures else {}
        shown = {}
        for row in rows:
            sample = samples.get(row["sample_id"], {"key": None, "error_message": None, "boxes": None})
            same = ("sample_id", "row", "url", "caption", "state", "reason", "http_status", "width", "height", "phash")
            shown[row["sample_id"]] = Shown(
                **{name: row[name] for name in same},
                link=web_address(row["url"]),
                message=sample["error_message"],
                clip_score=row["clip_score"],
                boxes=_shares(sample["boxes"] or [], row["width"], row["height"]),
                jpeg=pictures.get(sample["key"]),
            )
        return shown

    def _pictures(self, part: int, keys: set[str]) -> dict[str, bytes]:
        """The pictures of `keys` by a walk over the tar's headers, which reads no other content."""
        path = self.run.path("samples", f"{part:05d}.tar")
        if not keys or not path.exists():
            return {}
        found: dict[str, bytes] = {}
        try:
            with path.open("rb") as file:
                while len(found) < len(keys) and (header := file.read(tarfile.BLOCKSIZE)).strip(b"\0"):
                    # Names and sizes stand where `stages.tar` puts them; tarfile takes ten times as long.
                    key, _, ending = header[:100].rstrip(b"\0").decode().partition(".")
                    size, begin = int(header[124:135], 8), file.tell()
                    if ending == "jpg" and key in keys:
                        found[key] = file.read(size)
                    file.seek(begin + size + -size % tarfile.BLOCKSIZE)
        except (OSError, ValueError) as error:
            raise SluiceError(f"cannot read {path}: {error}; remove it and run the acquire stage again") from error
        return found


def _shares(boxes: list[dict[str, Any]], width: int | None, height: int | None) -> list[Box]:
    if not width or not height:
        return []
    return [
        Box(box["label"] or "", box["x"] / width, box["y"] / height, box["w"] / width, box["h"] / height)
        for box in boxes
    ]


def web_address(url: str | None) -> str | None:
    """`url` where it is an http or https address, else None."""
    return url if url and url.lower().startswith(("http://", "https://")) else None


def open_rgb(jpeg: bytes) -> Image.Image:
    return Image.open(io.BytesIO(jpeg)).convert("RGB")


def thumbnail(picture: Image.Image, side: int = THUMBNAIL_PX) -> str:
    """A JPEG of at most `side` pixels a side as a data: URL."""
    small = picture.copy()
    small.thumbnail((side, side))
    return data_url(small, "JPEG", quality=_QUALITY, optimize=True)


def data_url(picture: Image.Image, form: str, **options: Any) -> str:
    """`picture` as a data: URL in the form `JPEG` or `PNG`."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
