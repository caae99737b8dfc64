"""The hostile server, and settings that are impatient enough to meet it in a test."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator

import pytest

from stages.acquire import AcquireSettings
from tests.stages.acquire.hostile_server import (
    Server,
    answer,
    chunks,
    drip,
    drip_continue,
    drip_header,
    encoded,
    endless,
    endless_chunks,
    endless_gzip,
    endless_header,
    endless_moved,
    endless_page,
    lying_avif,
    moved,
    picture,
    png_header_of,
    raw,
    silent,
    tiff_with_tile,
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
        "/tdm-second.jpg": answer(good_jpeg, tdm_reservation="0, 1"),
        "/noindex.jpg": answer(good_jpeg, x_robots_tag="max-snippet: 3, NOINDEX"),
        "/not-opted-out.jpg": answer(good_jpeg, X_Robots_Tag="nofollow, max-image-preview: none", TDM_Reservation="0"),
        # statuses
        "/401.jpg": answer(status="401 Unauthorized", WWW_Authenticate="Basic"),
        "/403.jpg": answer(status="403 Forbidden"),
        "/451.jpg": answer(status="451 Unavailable For Legal Reasons"),
        "/206.jpg": answer(good_jpeg, "206 Partial Content"),
        "/101.jpg": raw("HTTP/1.1 101 Switching Protocols", "Upgrade: h2c", "Connection: Upgrade"),
        "/999.jpg": answer(status="999 Request denied"),
        "/429.jpg": answer(status="429 Too Many Requests"),
        "/busy-until-never.jpg": answer(status="503 Busy", Retry_After="Fri, 31 Dec 99999999999999999999 23:59:59 GMT"),
        "/busy-nonsense.jpg": [answer(status="503 Busy", Retry_After="a while"), answer(good_jpeg)],
        "/busy-for-eons.jpg": answer(status="503 Busy", Retry_After="9" * 400),
        "/busy-until-past.jpg": [
            answer(status="503 Busy", Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
            answer(good_jpeg),
        ],
        # sizes, lengths, chunks and compression
        "/endless-404.jpg": endless_page,
        "/endless-moved.jpg": endless_moved,
        "/endless-chunks.jpg": endless_chunks,
        "/endless-gzip.jpg": endless_gzip,
        "/drip-header.jpg": drip_header,
        "/drip-continue.jpg": drip_continue,
        "/says-less.jpg": raw("HTTP/1.1 200 OK", f"Content-Length: {len(good_jpeg) // 2}", body=good_jpeg),
        "/says-nothing.jpg": raw("HTTP/1.1 200 OK", body=good_jpeg),
        "/two-lengths.jpg": raw("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 7", body=good_jpeg),
        "/negative-length.jpg": raw("HTTP/1.1 200 OK", "Content-Length: -1", body=good_jpeg),
        "/length-and-chunks.jpg": raw(
            "HTTP/1.1 200 OK", "Content-Length: 9", "Transfer-Encoding: chunked", body=chunks(good_jpeg)
        ),
        "/chunks.jpg": raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=chunks(good_jpeg)),
        "/cut-chunks.jpg": raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=chunks(good_jpeg)[:-5]),
        "/bad-chunks.jpg": raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"zz\r\n" + good_jpeg),
        "/huge-chunk.jpg": raw("HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"f" * 40 + b"\r\n" + good_jpeg),
        "/deflate.jpg": answer(zlib.compress(good_jpeg), Content_Encoding="deflate"),
        "/brotli.jpg": answer(good_jpeg, Content_Encoding="br"),
        "/cut-gzip.jpg": answer(gzip.compress(good_jpeg)[:-200], Content_Encoding="gzip"),
        "/many-headers.jpg": raw("HTTP/1.1 200 OK", *(f"X-{number}: y" for number in range(5000)), body=good_jpeg),
        "/long-status.jpg": raw("HTTP/1.1 200 " + "O" * 100_000, body=good_jpeg),
        "/spaced-header.jpg": raw("HTTP/1.1 200 OK", "Content Length: 5", body=good_jpeg),
        "/http2.jpg": b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18,
        # redirects
        "/three-hops.jpg": moved("/two-hops.jpg"),
        "/two-hops.jpg": moved("/moved.jpg"),
        "/four-hops.jpg": moved("/three-hops.jpg"),
        "/hops-to-private.jpg": moved("/to-private.jpg"),
        "/to-ftp.jpg": moved("ftp://127.0.0.1/ok.jpg"),
        "/to-data.jpg": moved("data:image/png;base64,AAAA"),
        "/to-script.jpg": moved("javascript:alert(1)"),
        "/to-no-port.jpg": moved("http://127.0.0.1:0/ok.jpg"),
        "/to-loopback6.jpg": moved(f"http://[::1]:{server.port}/ok.jpg"),
        "/to-nat64.jpg": moved("http://[64:ff9b::a00:1]/ok.jpg"),
        "/to-6to4.jpg": moved("http://[2002:a00:1::]/ok.jpg"),
        "/to-teredo.jpg": moved("http://[2001:0:a00:1::1]/ok.jpg"),
        "/to-zone.jpg": moved("http://[fe80::1%25lo]/ok.jpg"),
        "/to-nonsense.jpg": moved("http://[oh no"),
        # pictures
        "/nothing.jpg": answer(),
        "/plain-svg.jpg": answer(b'\xef\xbb\xbf  <SVG onload="x"></SVG>'),
        "/lying.avif": answer(lying_avif()),
        "/large-tile.tiff": answer(tiff_with_tile(100, 8_000)),
        "/broken.png": answer(encoded(picture(90, 60), "PNG")[:-300]),
        "/broken.webp": answer(encoded(picture(90, 60), "WEBP")[:-30]),
        "/broken.gif": answer(encoded(picture(90, 60), "GIF")[:-2000]),
        "/ok.gif": answer(encoded(picture(90, 60), "GIF")),
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
    """Impatient, one retry, loopback allowed, no breaker: the hostile server is one host."""
    return AcquireSettings(
        allow_networks=["127.0.0.0/8"],
        connect_timeout_s=1,
        read_timeout_s=0.6,
        deadline_s=2.5,
        retries=1,
        max_mb=1,
        max_redirects=3,
        per_host=64,
        host_failures=0,
    )
