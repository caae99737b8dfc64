"""The default engine: aiohttp in one event loop, decoding beside it."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import uvloop

from stages.acquire.engine import Engine, Outcome, dropped
from stages.acquire.fetch import Fetcher
from stages.acquire.settings import AcquireSettings

_DNS_THREADS = 32
#: Pictures that may wait for a decoder before no more are asked for. More would only fall out of the processor's cache.
_MOST_WAITING = 16


class AiohttpEngine(Engine):
    """An event loop in a thread of its own, which lives as long as the engine.

    The rows of all parts that are being acquired share its connections, robots.txt rules and limits, so a part's last
    slow rows keep nobody waiting: the next part's rows are under way already. Decoding runs in threads beside the loop;
    the decoders release Python's lock.
    """

    def __init__(self, settings: AcquireSettings) -> None:
        super().__init__(settings)
        self._loop = uvloop.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_DNS_THREADS, "dns"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="download", daemon=True)
        self._thread.start()
        self._in_flight = asyncio.Semaphore(settings.concurrency)
        self._waiting = 0
        self._room = asyncio.Condition()
        self._fetcher = Fetcher(settings)
        asyncio.run_coroutine_threadsafe(self._fetcher.__aenter__(), self._loop).result()
        self._close = weakref.finalize(self, _close, self._loop, self._thread, self._fetcher)

    def acquire(self, urls: Sequence[str]) -> list[Outcome]:
        return asyncio.run_coroutine_threadsafe(self._all(urls), self._loop).result()

    def close(self) -> None:
        self._close()
        super().close()

    async def _all(self, urls: Sequence[str]) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(urls)
        async with asyncio.TaskGroup() as tasks:

            async def one(index: int) -> None:
                async with self._in_flight:
                    async with self._room:
                        await self._room.wait_for(lambda: self._waiting < _MOST_WAITING)
                    outcomes[index] = await self._one(urls[index])
                    async with self._room:
                        # A row that did not come to the decoders makes room too, and one may make room for many.
                        self._room.notify(max(1, _MOST_WAITING - self._waiting))

            for index in _by_turns(urls):
                tasks.create_task(one(index))
        return [found for found in outcomes if found is not None]

    async def _one(self, url: str) -> Outcome:
        fetched = await self._fetcher.fetch(url)
        if fetched.body is None:
            assert fetched.reason is not None
            return dropped(fetched.reason, fetched.message, fetched.http_status)
        self._waiting += 1
        try:
            columns, picture = await self._loop.run_in_executor(self.decoders, self.decode, fetched.body)
        finally:
            self._waiting -= 1
        return columns | {"http_status": fetched.http_status}, picture


def _close(loop: asyncio.AbstractEventLoop, thread: threading.Thread, fetcher: Fetcher) -> None:
    asyncio.run_coroutine_threadsafe(fetcher.__aexit__(None, None, None), loop).result()
    asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _by_turns(urls: Sequence[str]) -> list[int]:
    """Places of `urls`, the hosts taking turns, so that one slow host does not fill all that is in flight."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for index, url in enumerate(urls):
        host = url.partition("//")[2].partition("/")[0].lower()
        turns.append((seen[host], index))
        seen[host] += 1
    return [index for _, index in sorted(turns)]
