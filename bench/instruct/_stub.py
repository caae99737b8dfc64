"""An OpenAI-compatible endpoint that answers after 200 ms, takes 64 requests at once, fails as told, and counts.

An answer counts as taken once another request comes over the connection that it went out by: only then is it certain
that the client had it.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

LATENCY_S, AT_ONCE = 0.2, 64


class Stub:
    """Serves `/v1/chat/completions`, `/counts` and `/begin?errors=SHARE&drops=SHARE`, which also forgets."""

    def __init__(self) -> None:
        self.now = 0
        self.begin(0.0, 0.0)

    def begin(self, errors: float, drops: float) -> None:
        self.errors, self.drops = errors, drops
        self.chance = random.Random(0)
        self.seen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.taken: set[str] = set()
        self.last: dict[int, str] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        key = body["messages"][-1]["content"]
        assert request.transport is not None
        port = request.transport.get_extra_info("peername")[1]
        if port in self.last:
            self.taken.add(self.last.pop(port))
        self.seen["again"] += key in self.taken
        if self.now >= AT_ONCE:
            self.seen["refused_429"] += 1
            return web.Response(status=429, headers={"Retry-After": "1"})
        self.now += 1
        self.seen["most_at_once"] = max(self.seen["most_at_once"], self.now)
        try:
            await asyncio.sleep(LATENCY_S)
        finally:
            self.now -= 1
        luck = self.chance.random()
        if luck < self.errors:
            self.seen["errors_500"] += 1
            return web.Response(status=500)
        if luck < self.errors + self.drops:
            self.seen["dropped"] += 1
            request.transport.abort()
            return web.Response()
        self.answered[key] += 1
        self.last[port] = key
        message = {"role": "assistant", "content": f"Question: What is {key}?\nAnswer: It is {key}."}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        return web.json_response({"choices": [{"index": 0, "message": message}], "usage": usage})

    async def counts(self, request: web.Request) -> web.Response:
        keys = {"keys": len(self.answered), "answers": self.answered.total(), "taken": len(self.taken)}
        return web.json_response({**self.seen, **keys})

    async def start(self, request: web.Request) -> web.Response:
        self.begin(float(request.query["errors"]), float(request.query["drops"]))
        return web.Response()


@contextmanager
def served() -> Iterator[str]:
    """The stub in a process of its own; gives its address."""
    process = subprocess.Popen([sys.executable, "-m", "bench.instruct._stub"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


def begin(url: str, errors: float = 0.0, drops: float = 0.0) -> None:
    """Has the stub forget what it counted, and fail from now on as told."""
    urllib.request.urlopen(f"{url}/begin?errors={errors}&drops={drops}", timeout=10).close()


def counts(url: str) -> dict[str, Any]:
    """What the stub has counted."""
    with urllib.request.urlopen(f"{url}/counts", timeout=10) as answer:
        return json.load(answer)


async def _serve() -> None:
    stub = Stub()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", stub.answer)
    app.router.add_get("/counts", stub.counts)
    app.router.add_get("/begin", stub.start)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
