"""Reads any sample of the shards by its id or number: one range read through the index, no scan."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from schemas.conversation import Conversation
from schemas.errors import SluiceError
from schemas.tables import SHARD_INDEX
from stages.feed.shards import SPLITS
from stages.run_folder import RunFolder
from stages.store import read_parquet, read_range

K = TypeVar("K", int, str)
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One sample as it stands in its shard; `jpeg` is empty where it is about no picture."""

    jpeg: bytes
    record: dict[str, Any]

    @property
    def sample_id(self) -> str:
        return self.record["sample_id"]

    @property
    def conversations(self) -> list[Conversation]:
        return [Conversation.from_row(row) for row in self.record["conversations"]]

    @property
    def picture(self) -> Image.Image:
        """The picture, decoded to RGB."""
        return decode(self.jpeg)


class PackReader:
    """Random access to the samples of a run's shards. Safe to use from several threads.

    Args:
        splits: which shards to open, when the first sample is asked for.

    Raises:
        SluiceError: a sample is asked for, and the shards are not written yet.
    """

    def __init__(self, run: RunFolder, splits: Sequence[str] = SPLITS) -> None:
        self.run, self.folder = run, run.path("shards")
        self._splits = splits

    @cached_property
    def index(self) -> pa.Table:
        """`schemas.tables.SHARD_INDEX` of all parts."""
        parts = self.run.parts()
        paths = [self.folder / f"{split}-{part:06d}.index.parquet" for split in self._splits for part in parts]
        missing = [path for path in paths if not path.exists()]
        if missing or not paths:
            raise SluiceError(f"{missing[0] if missing else self.folder} is not there: run the feed stage first")
        return pa.concat_tables([_index(path) for path in paths]).combine_chunks()

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def sample_ids(self) -> list[str]:
        """Of all samples, by number."""
        return self.index["sample_id"].to_pylist()

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {identity: number for number, identity in enumerate(self.sample_ids)}

    def number(self, sample_id: str) -> int:
        """The sample's place among all samples.

        Raises:
            SluiceError: no shard holds it.
        """
        try:
            return self._numbers[sample_id]
        except KeyError:
            raise SluiceError(f"sample {sample_id} is in none of the shards in {self.folder}") from None

    @cached_property
    def pictured(self) -> np.ndarray:
        """int64: the numbers of the samples that have a picture, in order."""
        return np.flatnonzero(pc.is_valid(self.index["picture_size"]).to_numpy())

    def read(self, sample: str | int) -> Sample:
        """A sample with its picture's bytes, by id or number.

        Raises:
            SluiceError: the shard does not hold what was written to it; the same of the methods below.
        """
        number, begin, size = self._place(sample, "")
        data = self._range(number, begin, size)
        _, picture, picture_size = self._place(number, "picture_")
        _, text, text_size = self._place(number, "json_")
        jpeg = data[picture - begin : picture - begin + picture_size] if picture_size else b""
        return Sample(
            jpeg=self._intact(number, "picture", jpeg) if jpeg else jpeg,
            record=json.loads(self._intact(number, "json", data[text - begin : text - begin + text_size])),
        )

    def record(self, sample: str | int) -> dict[str, Any]:
        """The sample's JSON alone, by id or number."""
        return json.loads(self._member(sample, "json"))

    def jpeg(self, sample: str | int) -> bytes:
        """The picture's bytes alone, by id or number, of a sample that has one."""
        return self._member(sample, "picture")

    def map(self, read: Callable[[K], T], samples: Iterable[K]) -> list[T]:
        """`read` (a method above) of each sample, in their order; many at once where the shards are remote."""
        return self.run.map(read, samples)

    @cached_property
    def _places(self) -> dict[str, np.ndarray]:
        """Column of the index -> int64 of all samples; 0 where there is no picture."""
        names = [name for name in self.index.column_names if name.endswith(("offset", "size", "crc"))]
        return {name: self.index[name].fill_null(0).to_numpy() for name in names}

    @cached_property
    def _paths(self) -> list[Path]:
        """Each sample's shard; one object a shard."""
        paths = {name: self.folder / name for name in pc.unique(self.index["shard"]).to_pylist()}
        return [paths[name] for name in self.index["shard"].to_pylist()]

    def _place(self, sample: str | int, what: str) -> tuple[int, int, int]:
        """The sample's number, and offset and size of `what` (a prefix of the index's columns) in its shard."""
        number = self.number(sample) if isinstance(sample, str) else sample
        return number, int(self._places[f"{what}offset"][number]), int(self._places[f"{what}size"][number])

    def _member(self, sample: str | int, name: str) -> bytes:
        place = self._place(sample, f"{name}_")
        return self._intact(place[0], name, self._range(*place))

    def _intact(self, number: int, name: str, data: bytes) -> bytes:
        if zlib.crc32(data) != self._places[f"{name}_crc"][number]:
            raise SluiceError(
                f"{self._paths[number]} is damaged: the {name} of sample {self.sample_ids[number]} is not what was "
                "written; remove the shard and run the feed stage again"
            )
        return data

    def _range(self, number: int, offset: int, size: int) -> bytes:
        path = self._paths[number]
        try:
            data = read_range(path, offset, size)
        except OSError as error:
            raise SluiceError(f"cannot read {path}: {error.strerror or error}; run the feed stage again") from error
        if len(data) != size:
            raise SluiceError(f"{path} is cut short: remove it and run the feed stage again")
        return data


def _index(path: Path) -> pa.Table:
    try:
        return read_parquet(path).cast(SHARD_INDEX)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SluiceError(f"{path} cannot be read as an index; remove it and run the feed stage again") from error


def decode(jpeg: bytes) -> Image.Image:
    """JPEG bytes to an RGB picture."""
    return Image.open(io.BytesIO(jpeg)).convert("RGB")
