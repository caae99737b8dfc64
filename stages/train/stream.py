"""Trains a step while its data still comes: the plan's news, and batches from Ray's object store.

Each training worker follows the plan part by part and asks batch makers for its pieces, a few ahead of itself. They
make a batch and leave it in the object store until it is taken; nothing is written to a disk. So what is in memory is
bounded however fast the data comes: the batches ahead of each worker, and a few parts in each maker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from models.full import ModelSettings
from schemas.errors import SluiceError
from stages.feed.batches import Batch, Piece, PiecePlan, Pieces
from stages.feed.settings import FeedSettings
from stages.feed.stream_batches import BatchMaker, GrowingPieces, ahead_of
from stages.feed.stream_plan import stream_file
from stages.graph import MOST_CRASHES, result_of
from stages.run_folder import RunFolder, work_key
from stages.store import read_parquet
from stages.train.objectives import Objective
from stages.train.settings import TrainStep
from stages.train.work import STAGE, VERSION, StepWork


class StreamStepWork(StepWork):
    """A recipe's first step, trained while its data still comes.

    It is committed when all data has come, under the same key as in a staged run: that of all that it could see.
    """

    def __init__(
        self,
        run: RunFolder,
        model: ModelSettings | None,
        steps: Sequence[TrainStep],
        seed: int,
        feeding: Feeding | None = None,
    ) -> None:
        super().__init__(run, model, steps, seed)
        self.feeding = feeding

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "feeding": self.feeding}

    @classmethod
    def from_arguments(cls, values: dict[str, Any]) -> StreamStepWork:
        work = cast(StreamStepWork, super().from_arguments(values))
        work.feeding = values["feeding"]
        return work

    def _pieces(self, rank: int, world: int) -> Pieces:
        assert self.feeding is not None
        return _StreamedPieces(self.run, self.step, self.feeding, rank, world)

    def _state_key(self, key: str) -> str:
        # The data is not all known yet. Whoever plans a part otherwise than before removes the states.
        return work_key(STAGE, VERSION, ["stream", self._how()], [])

    def _validate(
        self, objective: Objective[Any], collate: Callable[[], Callable[[Piece], Any]], rank: int, world: int
    ) -> Callable[[], dict[str, float] | None]:
        def at_the_end() -> dict[str, float] | None:
            assert self.feeding is not None
            self.feeding.wait_for_end()
            return super(StreamStepWork, self)._validate(objective, collate, rank, world)()

        return at_the_end

    def _final_key(self, key: str) -> str:
        assert self.feeding is not None
        self.feeding.wait_for_end()
        return self.key()


@dataclass(frozen=True)
class Feeding:
    """Where a streaming step's data comes from; it is sent to the step's workers.

    Attributes:
        news: actor `_News`.
        makers: actors `BatchMaker`.
        ahead: batches that are asked for ahead of each worker.
    """

    news: Any
    makers: list[Any]
    ahead: int

    @classmethod
    def start(cls, run: RunFolder, feed: FeedSettings, model: ModelSettings, num_cpus: float) -> Feeding:
        """Starts the actors on Ray; each maker holds `num_cpus`."""
        import ray

        maker = ray.remote(BatchMaker).options(
            num_cpus=num_cpus, max_restarts=MOST_CRASHES, max_task_retries=MOST_CRASHES
        )
        news = ray.remote(_News).options(num_cpus=0).remote()
        return cls(news, [maker.remote(run, feed, model) for _ in range(feed.actors)], feed.ahead)

    def planned(self, parts: int) -> None:
        """Says that the plans of so many parts are committed."""
        self.news.grow.remote(parts)

    def end(self, parts: int) -> None:
        """Says that the plans of so many parts are committed, and that no part follows."""
        self.news.end.remote(parts)

    def fail(self) -> None:
        """Says that no part follows because a stage failed."""
        self.news.fail.remote()

    def parts(self, seen: int, wait: bool) -> int:
        """Number of parts that are planned; waits, where told so, until that is more than `seen` or none follows."""
        return result_of(self.news.parts.remote(seen, wait))

    def wait_for_end(self) -> None:
        """Waits until all data has come.

        Raises:
            SluiceError: the stages before training failed.
        """
        result_of(self.news.wait_for_end.remote())


class _StreamedPieces:
    """`Pieces` of a plan that grows. Batches come from the makers, so what would collate them here is not used."""

    def __init__(self, run: RunFolder, step: TrainStep, feeding: Feeding, rank: int, world: int) -> None:
        self._run, self._step, self._feeding = run, step, feeding
        self._cut = {"accumulation": step.accumulation, "rank": rank, "world": world}
        self._seen = self._known = 0

    @property
    def steps(self) -> int | None:
        return self._step.max_steps

    def pictures(self) -> int:
        return 0

    def samples(self, step: int) -> list[str]:
        plans = [read_parquet(self._run.path(stream_file(self._step.name, part))) for part in range(self._seen)]
        return PiecePlan(pa.concat_tables(plans), self._step.global_packs).samples(step)

    def batches(self, from_step: int, collate: Callable[[Piece], Any]) -> Iterator[Batch]:
        step, makers = self._step, self._feeding.makers
        pieces = GrowingPieces(
            self._more, step.global_packs, max_steps=step.max_steps, from_step=from_step, **self._cut
        )
        asked = 0

        def submit(piece: Piece) -> Any:
            nonlocal asked
            asked += 1
            return makers[asked % len(makers)].make.remote(piece)

        return ahead_of(pieces.next, submit, result_of, self._feeding.ahead)

    def _more(self, wait: bool) -> pa.Table | None:
        if self._seen == self._known:
            self._known = self._feeding.parts(self._seen, wait)
        if self._seen == self._known:
            return None
        self._seen += 1
        return read_parquet(self._run.path(stream_file(self._step.name, self._seen - 1)))


class _News:
    """How far the plan has grown, as an actor that the driver tells and the workers ask.

    Ray does not keep the order of calls of an asynchronous actor: what is told late must not take back what is newer.
    """

    def __init__(self) -> None:
        self._parts = 0
        self._ended = self._failed = False
        self._changed = asyncio.Condition()

    async def grow(self, parts: int) -> None:
        await self._tell(parts)

    async def end(self, parts: int) -> None:
        await self._tell(parts, ended=True)

    async def fail(self) -> None:
        await self._tell(0, ended=True, failed=True)

    async def _tell(self, parts: int, ended: bool = False, failed: bool = False) -> None:
        async with self._changed:
            self._parts = max(self._parts, parts)
            self._ended |= ended
            self._failed |= failed
            self._changed.notify_all()

    async def parts(self, seen: int, wait: bool) -> int:
        async with self._changed:
            await self._changed.wait_for(lambda: not wait or self._ended or self._parts > seen)
            self._check()
            return self._parts

    async def wait_for_end(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended)
            self._check()

    def _check(self) -> None:
        if self._failed:
            raise SluiceError("the stages before training failed")
