"""Puts kernels on Ray: parts flow through a chain of stages, each with its own actors and resources.

A stage author writes a `PartWork`: what one part's output depends on and how to compute it. Everything else
(skipping parts that are done, committing, counting, progress) is here, once. Kernels know nothing of Ray, so this
module is the only one in `stages` that imports it besides `stages.train`.
"""

from __future__ import annotations

import heapq
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from schemas.errors import SluiceError
from schemas.identity import digest
from stages.run_folder import RunFolder, work_key

log = logging.getLogger("sluice")

#: How often an actor whose process died is started again, and a part of it tried again.
MOST_CRASHES = 3


@dataclass
class PartOutput:
    """What one part came to: files for the run folder, and counts of rows by outcome."""

    files: dict[str, bytes | pa.Table | Path]
    counts: dict[str, int] = field(default_factory=dict)


class PartWork(ABC):
    """One stage's work on one part, without Ray. Instances are made once per actor and used for many parts.

    Attributes:
        stage: the name under which manifests are kept.
        version: raised when the same input would give another output.
        upstream: stages whose output for the same part (or for all parts) this one reads.
    """

    stage: ClassVar[str]
    version: ClassVar[int] = 1
    upstream: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @abstractmethod
    def settings(self) -> Any:
        """The JSON-able part of the recipe that the output depends on (not concurrency or actors)."""

    @abstractmethod
    def compute(self, part: int) -> PartOutput:
        """Does the work. Must depend only on the part's inputs, the settings and the version."""

    def key(self, part: int) -> str:
        """What the part's output depends on."""
        inputs = [
            self.run.output_digest(stage, part) or self.run.output_digest(stage, "all") for stage in self.upstream
        ]
        return work_key(self.stage, self.version, self.settings(), inputs)

    def before(self, part: int) -> str:
        """A digest of what this stage made of the part before, whose key stands for all parts before that one."""
        found = self.run.manifest(self.stage, part - 1) or {"key": None, "outputs": None}
        return digest([found["key"], found["outputs"]])

    def done(self, part: int) -> bool:
        """Whether the part is committed and still fits its inputs and settings."""
        return self.run.is_done(self.stage, part, self.key(part))

    def process(self, part: int) -> dict[str, int]:
        """Computes and commits the part unless it is done; returns its counts."""
        key = self.key(part)
        if not self.run.is_done(self.stage, part, key):
            output = self.compute(part)
            self.run.commit(self.stage, part, key, output.files, output.counts, version=self.version)
        manifest = self.run.manifest(self.stage, part)
        return {} if manifest is None else manifest["counts"]


@dataclass(frozen=True)
class Place:
    """A stage's place in the graph.

    Attributes:
        make: builds the work inside the actor (so that models are loaded there, never sent).
        num_cpus: logical CPUs an actor holds.
        actors: how many actors.
        num_gpus: GPUs an actor holds.
        parts_at_once: parts that an actor has under way at the same time, each in a thread of its own.
        in_order: a part waits until the one before it has begun here; with one actor and one part at once, until it is
            done.
    """

    make: Callable[[], PartWork]
    num_cpus: float
    actors: int = 1
    num_gpus: float = 0
    parts_at_once: int = 1
    in_order: bool = False


class _Actor:
    """Runs a `PartWork` on one part after another. Stays alive and keeps its models over many parts."""

    def __init__(self, make: Callable[[], PartWork]) -> None:
        self.work = make()

    def process(self, part: int) -> None:
        self.work.process(part)


class _Pool:
    """The actors of one place, and the parts that wait for them, lowest number first."""

    def __init__(self, place: Place, parts: list[int]) -> None:
        import ray

        made = ray.remote(_Actor).options(
            num_cpus=place.num_cpus,
            num_gpus=place.num_gpus,
            max_concurrency=place.parts_at_once,
            max_restarts=MOST_CRASHES,
            max_task_retries=MOST_CRASHES,
        )
        self.actors: list[Any] = [made.remote(place.make) for _ in range(min(place.actors, len(parts)))]
        self.free = [place.parts_at_once] * len(self.actors)
        self.waiting: list[int] = []
        #: The parts that are still to begin, where they begin in order; the next one last.
        self.ahead = sorted(parts, reverse=True) if place.in_order else None

    def begin(self) -> Iterator[tuple[Any, int, int]]:
        """Hands out parts while an actor has room: the running task's reference, the actor's number, the part."""
        while self.waiting and max(self.free) > 0 and (self.ahead is None or self.waiting[0] == self.ahead[-1]):
            actor = max(range(len(self.actors)), key=lambda number: self.free[number])
            self.free[actor] -= 1
            part = heapq.heappop(self.waiting)
            if self.ahead is not None:
                self.ahead.pop()
            yield self.actors[actor].process.remote(part), actor, part


def run_parts(places: list[Place], parts: list[int]) -> Iterator[int]:
    """Streams `parts` through the chain of `places`; yields each part's number when its last stage has committed.

    What passes between the stages lies in the run folder, so that only the parts' numbers travel. An actor whose
    process dies is started again, and its parts with it, a few times.

    Raises:
        SluiceError: as a stage raised it; any other error, as Ray reports it. Parts that were committed stay.
    """
    import ray

    if not parts:
        return
    pools = [_Pool(place, parts) for place in places]
    pools[0].waiting = sorted(parts)
    running: dict[Any, tuple[int, int, int]] = {}
    try:
        while True:
            for level, pool in enumerate(pools):
                running |= {reference: (level, actor, part) for reference, actor, part in pool.begin()}
            if not running:
                return
            (ended, *_), _ = ray.wait(list(running))
            level, actor, part = running.pop(ended)
            result_of(ended)
            pools[level].free[actor] += 1
            if level + 1 < len(pools):
                heapq.heappush(pools[level + 1].waiting, part)
            else:
                yield part
    finally:
        # An actor that nobody refers to ends when its parts are done; an error's traceback would refer to it.
        running.clear()
        for pool in pools:
            pool.actors.clear()


def result_of(reference: Any) -> Any:
    """What a task on Ray came to.

    Raises:
        SluiceError: as the task raised it, for Ray's own words around its message are a traceback of its worker. Any
            other error, as Ray reports it.
    """
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, SluiceError) else error from None


def count_over_parts(run: RunFolder, stage: str, parts: list[int]) -> Mapping[str, int]:
    """Sums the counts of `stage`'s manifests over `parts`."""
    total: dict[str, int] = {}
    for part in parts:
        for name, number in (run.manifest(stage, part) or {"counts": {}})["counts"].items():
            total[name] = total.get(name, 0) + number
    return total
