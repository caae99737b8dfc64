"""Serves a known world over HTTP as the web would: most pictures at once, some late, never, or not at all."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from aiohttp import web

from schemas.errors import InputError

_CLOSED = "User-agent: *\nDisallow: /\n"
_OPEN = "User-agent: *\nAllow: /\n"


def make_app(folder: Path) -> web.Application:
    """Builds the server of the world in `folder`. The host name `localhost` is the one that robots.txt closes.

    Raises:
        InputError: `folder` holds no world.
    """
    try:
        routes: dict[str, str] = json.loads((folder / "routes.json").read_text())
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no sample world: make one with `sluice sample {folder}`") from error

    async def robots(request: web.Request) -> web.Response:
        return web.Response(text=_CLOSED if request.host.startswith("localhost") else _OPEN)

    async def picture(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        path = folder / "pictures" / name
        behaviour = routes.get(name)
        if behaviour == "missing" or not path.is_file():
            raise web.HTTPNotFound
        if behaviour in ("slow", "endless"):
            return await _drip(request, path.read_bytes(), endless=behaviour == "endless")
        headers = {"X-Robots-Tag": "noai, noimageai"} if behaviour == "opt_out" else {}
        return web.FileResponse(path, headers=headers)

    app = web.Application()
    app.add_routes([web.get("/robots.txt", robots), web.get("/pictures/{name}", picture)])
    return app


async def _drip(request: web.Request, data: bytes, endless: bool) -> web.StreamResponse:
    """Sends a byte a fifth of a second, or filler for ever; ends when the client leaves."""
    response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
    await response.prepare(request)
    try:
        if endless:
            await response.write(data)
            while True:
                await response.write(bytes(256))
                await asyncio.sleep(0.05)
        for byte in data:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.2)
    except ConnectionError:
        pass
    return response


def serve(app: web.Application, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Serves what `make_app` built until it is interrupted.

    Raises:
        InputError: the port is taken.
    """
    try:
        web.run_app(app, host=host, port=port, print=None, access_log=None)
    except OSError as error:
        raise InputError(f"cannot serve on {host}:{port}: {error.strerror}; choose another --port") from error
