"""The hostile server, and settings that are impatient enough to meet it in a test."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator

import pytest

from stages.acquire import AcquireSettings
from tests.stages.acquire.hostile_server import (
    Server,
    answer,
    drip,
    encoded,
    endless,
    endless_header,
    moved,
    picture,
    png_header_of,
    silent,
)


@pytest.fixture(scope="session")
def good_jpeg() -> bytes:
    return encoded(picture(120, 90))


@pytest.fixture(scope="session")
def hostile(good_jpeg: bytes) -> Iterator[Server]:
    """One server with every behaviour; its robots.txt closes /closed/."""
    bomb = gzip.compress(b"\0" * 30_000_000)
    server = Server()
    server.routes |= {
        "/robots.txt": answer(b"User-agent: *\nDisallow: /private/\n\nUser-agent: Sluice\nDisallow: /closed/\n"),
        "/ok.jpg": answer(good_jpeg),
        "/closed/ok.jpg": answer(good_jpeg),
        "/private/ok.jpg": answer(good_jpeg),
        "/zipped.jpg": answer(gzip.compress(good_jpeg), Content_Encoding="gzip"),
        "/gone.jpg": answer(status="410 Gone"),
        "/empty.jpg": answer(status="204 No Content"),
        "/not-modified.jpg": answer(status="304 Not Modified"),
        "/500.jpg": answer(status="500 Oops"),
        "/flaky.jpg": [answer(status="500 Oops"), answer(good_jpeg)],
        "/busy.jpg": [answer(status="429 Too Many Requests", Retry_After="0"), answer(good_jpeg)],
        "/busy-for-hours.jpg": answer(status="503 Busy", Retry_After="7200"),
        "/drip.jpg": drip,
        "/silent.jpg": silent,
        "/endless.jpg": endless,
        "/endless-header.jpg": endless_header,
        "/says-large.jpg": b"HTTP/1.1 200 OK\r\nContent-Length: 3000000000\r\n\r\n",
        "/short.jpg": answer(good_jpeg).replace(b"Content-Length: ", b"Content-Length: 9"),
        "/bomb.jpg": answer(bomb, Content_Encoding="gzip"),
        "/bad-gzip.jpg": answer(b"this is no gzip", Content_Encoding="gzip"),
        "/moved.jpg": moved("/ok.jpg"),
        "/loop.jpg": moved("/loop.jpg"),
        "/to-closed.jpg": moved("/closed/ok.jpg"),
        "/to-file.jpg": moved("file:///etc/passwd"),
        "/to-metadata.jpg": moved("http://169.254.169.254/latest/meta-data/"),
        "/to-private.jpg": moved("http://10.0.0.1/x.jpg"),
        "/to-mapped.jpg": moved(f"http://[::ffff:127.0.0.1]:{server.port}/ok.jpg"),
        "/to-nowhere.jpg": answer(status="302 Found"),
        "/page.jpg": answer(b"<!doctype html><html><body>Not found</body></html>"),
        "/drawing.svg": answer(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>'),
        "/broken.jpg": answer(good_jpeg[: len(good_jpeg) // 2]),
        "/garbage.jpg": b"\0\1\2 this is not HTTP at all\r\n\r\n",
        "/hangs-up.jpg": b"",
        "/huge.png": answer(png_header_of(60_000, 60_000)),
        "/large.png": answer(png_header_of(8_000, 8_000)),
        "/pixel.png": answer(encoded(picture(1, 1), "PNG")),
        "/noai.jpg": answer(good_jpeg, X_Robots_Tag="NoAI, nofollow"),
        "/noai-for-us.jpg": answer(good_jpeg, X_Robots_Tag="Sluice: noimageai"),
        "/noai-for-others.jpg": answer(good_jpeg, X_Robots_Tag="otherbot: noai, noindex"),
        "/tdm.jpg": answer(good_jpeg, TDM_Reservation="1"),
    }
    yield server
    server.close()


@pytest.fixture(scope="session")
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that nobody else takes it, and not listening."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def settings() -> AcquireSettings:
    """Impatient, one retry, loopback allowed."""
    return AcquireSettings(
        allow_networks=["127.0.0.0/8"],
        connect_timeout_s=1,
        read_timeout_s=0.4,
        deadline_s=2.5,
        retries=1,
        max_mb=1,
        max_redirects=3,
        per_host=64,
    )
