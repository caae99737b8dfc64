"""A real HTTP server that speaks OpenAI's form, answers as a test tells it to, and notes what it is asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

#: What to do with a request: the body as JSON in, a response out; None breaks the connection off.
Rule = Callable[[dict[str, Any]], web.StreamResponse | Awaitable[web.StreamResponse] | None]


class EndpointServer:
    """Serves on a free loopback port. `asked` holds the bodies, `headers` the headers of all requests."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def words(self) -> list[str]:
        """The last message of every request."""
        return [body["messages"][-1]["content"] for body in self.asked]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.headers.append(dict(request.headers))
        response = self.rule(body)
        if response is None:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return response if isinstance(response, web.StreamResponse) else await response


def said(text: str | None, input_tokens: int = 10, output_tokens: int = 5) -> web.Response:
    """An answer in OpenAI's form."""
    usage = {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage})


@contextmanager
def serve(rule: Rule) -> Iterator[EndpointServer]:
    """Serves until the end."""
    server, loop, started = EndpointServer(rule), asyncio.new_event_loop(), threading.Event()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        started.set()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def echo(body: dict[str, Any]) -> web.Response:
    """Answers with the last message."""
    return said(json.dumps(body["messages"][-1]["content"]))
