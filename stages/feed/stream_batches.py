"""Batches of a plan that still grows: which pieces are ready, and what they are made of."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import pyarrow as pa

from models.full import ModelSettings, picture_layout
from models.language import load_tokenizer
from stages.feed.batches import Batch, LanguageCollate, Piece, PiecePlan, pack_begins
from stages.feed.reader import PackReader, Sample
from stages.feed.settings import FeedSettings
from stages.feed.shards import ShardWork
from stages.run_folder import RunFolder
from stages.tar import read_members

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")

#: Bytes of pictures that are held in memory, and parts at least.
_HELD_BYTES, _HELD_PARTS = 512 << 20, 2


class GrowingPieces:
    """The pieces of a plan that grows part by part: the same that `PiecePlan` cuts of the whole.

    Args:
        more: the next part's plan. None means, where it is told to wait, that none follows; else, that none is there
            yet.
        from_step: optimizer steps to pass over.
    """

    def __init__(
        self,
        more: Callable[[bool], pa.Table | None],
        packs_per_step: int,
        accumulation: int = 1,
        rank: int = 0,
        world: int = 1,
        max_steps: int | None = None,
        from_step: int = 0,
    ) -> None:
        self._more, self._packs_per_step = more, packs_per_step
        self._shares = accumulation, rank, world
        self._max_steps, self._from_step = max_steps, from_step
        self._ready: deque[Piece] = deque()
        self._rest: list[pa.Table] = []
        self._steps = 0
        self._ended = False

    def next(self, wait: bool) -> Piece | None:
        """The next piece; None after the last, and, unless it is told to wait, while there is none yet."""
        while not self._ready and not self._ended:
            plan = self._more(wait)
            if plan is None and not wait:
                return None
            self._add(plan)
        return self._ready.popleft() if self._ready else None

    def _add(self, plan: pa.Table | None) -> None:
        """Cuts into pieces what is there; packs that do not fill a step wait for others, if any follow."""
        self._rest += [] if plan is None else [plan]
        if not self._rest:
            self._ended = True
            return
        table = pa.concat_tables(self._rest).combine_chunks()
        begins = pack_begins(table)
        whole = (len(begins) - 1) // self._packs_per_step * self._packs_per_step
        cut = int(begins[whole]) if plan is not None else len(table)
        self._rest = [table.slice(cut)]
        most = None if self._max_steps is None else self._max_steps - self._steps
        cutter = PiecePlan(table.slice(0, cut), self._packs_per_step, *self._shares, max_steps=most)
        pieces = cutter.pieces(max(0, self._from_step - self._steps))
        self._ready.extend(replace(piece, step=piece.step + self._steps) for piece in pieces)
        self._steps += cutter.steps
        self._ended = plan is None or self._steps == self._max_steps


def ahead_of(
    next_piece: Callable[[bool], K | None], submit: Callable[[K], R], fetch: Callable[[R], T], ahead: int
) -> Iterator[T]:
    """Yields what comes of every piece, in order; at most `ahead` are asked for and not yet taken.

    It waits for a piece only while it has nothing else to give.
    """
    waiting: deque[R] = deque()
    while True:
        while len(waiting) < ahead and (piece := next_piece(not waiting)) is not None:
            waiting.append(submit(piece))
        if not waiting:
            return
        yield fetch(waiting.popleft())


class BatchMaker:
    """Makes batches of pieces from the parts' records and pictures, a few parts in memory at a time; needs no shards.

    From the second epoch on, the samples of a piece lie anywhere: they are read from the shards.
    """

    def __init__(self, run: RunFolder, feed: FeedSettings, model: ModelSettings) -> None:
        self.run = run
        self._parts = _HeldParts(ShardWork(run, feed, model))
        self._tokenizer = load_tokenizer(model.language)
        self._layout = picture_layout(model)

    def make(self, piece: Piece) -> Batch:
        """The batch that `LanguageCollate` makes of the piece, whose rows are those of `PART_PLAN`."""
        rows = [row for pack in piece.packs for row in pack]
        if any(row["part"] is None for row in rows):
            return self._collate(self._shards)(piece)
        self._parts.expect({row["sample_id"]: row["part"] for row in rows})
        return self._collate(self._parts)(piece)

    @cached_property
    def _shards(self) -> PackReader:
        return PackReader(self.run, ["train"])

    def _collate(self, reader: Any) -> LanguageCollate:
        return LanguageCollate(reader, self._tokenizer, self._layout)


class _HeldParts:
    """Reads samples as `PackReader` does, from parts that are held in memory, those used last."""

    def __init__(self, work: ShardWork) -> None:
        self.work = work
        self._places: dict[str, int] = {}
        self._held: OrderedDict[int, dict[str, Sample]] = OrderedDict()

    def expect(self, places: dict[str, int]) -> None:
        """Says in which part each of the samples lies that are read next."""
        self._places = places

    def record(self, sample: str) -> dict[str, Any]:
        return self._sample(sample).record

    def jpeg(self, sample: str) -> bytes:
        return self._sample(sample).jpeg

    def map(self, read: Callable[[str], T], samples: Iterable[str]) -> list[T]:
        return [read(sample) for sample in samples]

    def _sample(self, sample: str) -> Sample:
        part = self._places[sample]
        if part not in self._held:
            self._held[part] = self._read(part)
            while len(self._held) > _HELD_PARTS and sum(map(_bytes, self._held.values())) > _HELD_BYTES:
                self._held.popitem(last=False)
        self._held.move_to_end(part)
        return self._held[part][sample]

    def _read(self, part: int) -> dict[str, Sample]:
        pictures = dict(read_members(self.work.run.path("samples", f"{part:05d}.tar"), "jpg"))
        records = self.work.records(part, "train")
        return {record["sample_id"]: Sample(pictures.get(key, b""), record) for key, record in records.items()}


def _bytes(samples: dict[str, Sample]) -> int:
    return sum(len(sample.jpeg) for sample in samples.values())
