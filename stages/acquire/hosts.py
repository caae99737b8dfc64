"""What is remembered of each host: whose turn it is, and whether it is worth asking at all.

Memory is bounded: a `Shelf` keeps what is in use, and of the rest only what was used last.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from stages.acquire.settings import AcquireSettings

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass
class _InUse(Generic[Value]):
    value: Value
    users: int = 0


class Shelf(Generic[Key, Value]):
    """Values by key, made when first asked for. One in use is never thrown away; idle ones are, the longest idle first.

    Args:
        make: makes the value of a key.
        room: the most that idle values may weigh together.
        weigh: what an idle value weighs; each weighs 1 without it.
    """

    def __init__(self, make: Callable[[Key], Value], room: int, weigh: Callable[[Value], int] = lambda _: 1) -> None:
        self._make, self._room, self._weigh = make, room, weigh
        self._used: dict[Key, _InUse[Value]] = {}
        self._idle: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0

    def __len__(self) -> int:
        return len(self._used) + len(self._idle)

    @contextmanager
    def use(self, key: Key) -> Iterator[Value]:
        """The value of `key`, the same for all that use it at the same time."""
        if (entry := self._used.get(key)) is None:
            entry = self._used[key] = _InUse(self._take(key))
        entry.users += 1
        try:
            yield entry.value
        finally:
            entry.users -= 1
            if not entry.users:
                del self._used[key]
                self._put_back(key, entry.value)

    def _take(self, key: Key) -> Value:
        if key not in self._idle:
            return self._make(key)
        value, weight = self._idle.pop(key)
        self._weight -= weight
        return value

    def _put_back(self, key: Key, value: Value) -> None:
        weight = self._weigh(value)
        self._idle[key] = value, weight
        self._weight += weight
        while self._weight > self._room:
            _, (_, weight) = self._idle.popitem(last=False)
            self._weight -= weight


class Host:
    """One host's turns (requests at once and per second) and its circuit breaker. For one event loop.

    The breaker opens after `host_failures` failures in a row and lets nothing through for `host_pause_s`. Then one
    request goes ahead as a probe: what comes of it closes the breaker, or keeps it open for another pause.
    """

    def __init__(self, settings: AcquireSettings) -> None:
        self._gate = asyncio.Semaphore(settings.per_host)
        self._gap_s = 1 / settings.per_host_rate if settings.per_host_rate else 0
        self._most_failures, self._pause_s = settings.host_failures, settings.host_pause_s
        self._next_at = self._again_at = 0.0
        self._failures = 0
        self._probing = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Waits for a turn, first come, first served, and gives whether the host may be asked now.

        Where it may, whoever has the turn must call `note` with what came of it, unless it is cancelled.
        """
        async with self._gate:
            failing = 0 < self._most_failures <= self._failures
            if failing and (self._probing or asyncio.get_running_loop().time() < self._again_at):
                yield False
                return
            self._probing = failing
            try:
                if self._gap_s:
                    await self._keep_pace()
                yield True
            finally:
                if failing:
                    self._probing = False

    def note(self, failed: bool) -> None:
        """Tells whether the host failed to answer, in a way that may pass."""
        self._failures = self._failures + 1 if failed else 0
        if failed:
            self._again_at = asyncio.get_running_loop().time() + self._pause_s

    async def _keep_pace(self) -> None:
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next_at)
        self._next_at = begin + self._gap_s
        if begin > now:
            await asyncio.sleep(begin - now)
