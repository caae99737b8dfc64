"""A web server on loopback that behaves as badly as the web does, and pictures to serve."""

from __future__ import annotations

import asyncio
import io
import ssl
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


def png_header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nearly nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def lying_avif(side: int = 2000) -> bytes:
    """An AVIF file of `side` x `side` pixels whose container says 200 x 200."""
    body = encoded(Image.new("RGB", (side, side), "green"), "AVIF", speed=10)
    place = body.index(b"ispe") + 8
    return body[:place] + struct.pack(">II", 200, 200) + body[place + 8 :]


def tiff_with_tile(side: int, tile: int) -> bytes:
    """A TIFF file of `side` x `side` pixels, stored as one deflated tile of `tile` x `tile`."""
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(tile * 3)) for _ in range(tile)) + packer.flush()
    short, long = 3, 4
    tags = [
        (256, long, side),
        (257, long, side),
        (258, short, 8),  # bits
        (259, short, 8),  # deflate
        (262, short, 2),  # RGB
        (277, short, 3),  # samples
        (322, long, tile),
        (323, long, tile),
        (324, long, 8 + 2 + 10 * 12 + 4),
        (325, long, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def raw(*lines: str, body: bytes = b"") -> bytes:
    """An HTTP answer of just these header lines, and whatever body."""
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunks(body: bytes) -> bytes:
    """A body in chunked form."""
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP answer. Underscores in header names stand for hyphens."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def moved(where: str) -> bytes:
    return answer(status="302 Found", Location=where)


Behaviour = bytes | Callable[[asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Server:
    """Answers each path with what stands in `routes`, or 404; counts requests by path and keeps the last headers."""

    def __init__(
        self, routes: dict[str, Behaviour | list[bytes]] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.routes = routes or {}
        self._tls = tls
        self.asked: Counter[str] = Counter()
        self.most_at_once = self._now = 0
        self.last_request = b""
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.last_request = await reader.readuntil(b"\r\n\r\n")
            path = self.last_request.split(b" ")[1].decode()
            self.asked[path] += 1
            self._now += 1
            self.most_at_once = max(self._now, self.most_at_once)
            behaviour = self.routes.get(path, answer(b"nothing here", "404 Not Found"))
            if isinstance(behaviour, list):
                behaviour = behaviour[min(self.asked[path], len(behaviour)) - 1]
            if isinstance(behaviour, bytes):
                writer.write(behaviour)
                await writer.drain()
            else:
                await behaviour(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._now -= 1
            writer.close()


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then: never silent for long, never done."""
    await _drip(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x")


async def _drip(writer: asyncio.StreamWriter, head: bytes, piece: bytes) -> None:
    writer.write(head)
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.05)


async def silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def drip_header(writer: asyncio.StreamWriter) -> None:
    """A header that never ends, a letter at a time."""
    await _drip(writer, b"HTTP/1.1 200 OK\r\nX: ", b"y")


async def drip_continue(writer: asyncio.StreamWriter) -> None:
    """One interim answer after another, and never the real one."""
    await _drip(writer, b"", b"HTTP/1.1 100 Continue\r\n\r\n")


async def endless(writer: asyncio.StreamWriter, head: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
    writer.write(head)
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def endless_header(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Filler: " + b"x" * 65536)
        await writer.drain()


async def endless_page(writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"HTTP/1.1 404 Not Found\r\n\r\n")


async def endless_moved(writer: asyncio.StreamWriter) -> None:
    await endless(writer, b"HTTP/1.1 302 Found\r\nLocation: /ok.jpg\r\n\r\n")


async def endless_chunks(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        await writer.drain()


async def endless_gzip(writer: asyncio.StreamWriter) -> None:
    """Zeros without end: a thousand times as many as bytes that are sent."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n")
    packer = zlib.compressobj(wbits=31)
    while True:
        writer.write(packer.compress(b"\0" * 1_000_000) + packer.flush(zlib.Z_SYNC_FLUSH))
        await writer.drain()
