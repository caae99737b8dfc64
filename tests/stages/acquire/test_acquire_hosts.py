"""Turns, pace and breaker of a host, on a clock that jumps instead of waiting; and a memory that stays bounded."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.acquire import AcquireSettings
from stages.acquire.hosts import Host, Shelf


class _Jumping(selectors.SelectSelector):
    """Never waits: what it was to wait for is added to the clock."""

    clock = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.clock += timeout or 0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.clock


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    loop = _Loop()
    try:
        return loop.run_until_complete(work())
    finally:
        loop.close()


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_rate_spaces_requests_first_come_first_served() -> None:
    async def work() -> list[tuple[int, float]]:
        host = Host(AcquireSettings(per_host=3, per_host_rate=4))
        begun: list[tuple[int, float]] = []

        async def row(number: int) -> None:
            async with host.turn() as may_ask:
                assert may_ask
                begun.append((number, now()))
                await asyncio.sleep(0.1)
                host.note(failed=False)

        await asyncio.gather(*(row(number) for number in range(8)))
        await asyncio.sleep(100)
        await row(8)  # nothing was saved up in the meantime, and nothing is owed
        await row(9)
        return begun

    begun = run(work)
    assert [number for number, _ in begun] == list(range(10))
    times = [time for _, time in begun]
    assert times[:8] == pytest.approx([number / 4 for number in range(8)])
    assert times[8] == pytest.approx(times[7] + 100.1)
    assert times[9] == pytest.approx(times[8] + 0.25)


def test_a_slow_host_is_bound_by_per_host_rather_than_by_its_rate() -> None:
    async def work() -> tuple[int, float]:
        host = Host(AcquireSettings(per_host=2, per_host_rate=100))
        at_once = most = 0

        async def row() -> None:
            nonlocal at_once, most
            async with host.turn():
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(1)
                at_once -= 1

        await asyncio.gather(*(row() for _ in range(6)))
        return most, now()

    most, took = run(work)
    assert most == 2
    assert took == pytest.approx(3, abs=0.1)


def test_a_row_that_is_cancelled_in_the_queue_holds_up_nobody() -> None:
    async def work() -> int:
        host = Host(AcquireSettings(per_host=1, per_host_rate=1))
        done = 0

        async def row() -> None:
            nonlocal done
            async with host.turn():
                await asyncio.sleep(0.5)
                done += 1

        rows = [asyncio.create_task(row()) for _ in range(6)]
        await asyncio.sleep(1.2)
        for cancelled in rows[1:4]:
            cancelled.cancel()
        await asyncio.wait(rows)
        return done

    assert run(work) == 3


def test_the_breaker_opens_pauses_and_lets_one_probe_through() -> None:
    async def work() -> None:
        host = Host(AcquireSettings(per_host=8, host_failures=2, host_pause_s=60))

        async def ask(failed: bool, takes_s: float = 0) -> bool:
            async with host.turn() as may_ask:
                if may_ask:
                    await asyncio.sleep(takes_s)
                    host.note(failed)
                return may_ask

        assert [await ask(True), await ask(False), await ask(True), await ask(True)] == [True] * 4
        assert not await ask(False)
        await asyncio.sleep(59)
        assert not await ask(False)
        await asyncio.sleep(2)
        # Half open: of many rows at once, one goes through; it fails, and another pause begins.
        assert await asyncio.gather(*(ask(True, takes_s=5) for _ in range(5))) == [True] + [False] * 4
        await asyncio.sleep(59)
        assert not await ask(False)
        await asyncio.sleep(2)
        # A probe that is cancelled has said nothing: the next row is the probe.
        probe = asyncio.create_task(ask(False, takes_s=5))
        await asyncio.sleep(1)
        assert not await ask(False)
        probe.cancel()
        await asyncio.wait([probe])
        assert await ask(False)
        assert await asyncio.gather(*(ask(False, takes_s=5) for _ in range(5))) == [True] * 5

    run(work)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60), st.integers(0, 8))
def test_a_shelf_never_forgets_what_is_in_use_and_is_bounded(moves: list[tuple[int, bool]], room: int) -> None:
    made: list[int] = []

    def make(key: int) -> list[int]:
        made.append(key)
        return [key]

    shelf: Shelf[int, list[int]] = Shelf(make, room, weigh=lambda value: 1 + value[0] % 2)
    held: dict[int, list[tuple[Any, list[int]]]] = {}
    for key, take in moves:
        if take:
            user = shelf.use(key)
            value = user.__enter__()
            assert value == [key]
            for _, other in held.get(key, []):
                assert value is other
            held.setdefault(key, []).append((user, value))
        elif held.get(key):
            held[key].pop()[0].__exit__(None, None, None)
        in_use = {name for name, users in held.items() if users}
        assert len(in_use) <= len(shelf) <= len(in_use) + room
    for users in held.values():
        for user, _ in users:
            user.__exit__(None, None, None)
    assert len(shelf) <= room


def test_a_shelf_forgets_the_longest_idle_first() -> None:
    made: list[str] = []
    shelf: Shelf[str, str] = Shelf(lambda key: made.append(key) or key, 2)  # type: ignore[func-returns-value]
    for key in "abacab":
        with shelf.use(key):
            pass
    assert made == ["a", "b", "c", "b"]
