"""Every bad behaviour of a server has its reason, and nothing is fetched that must not be."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from schemas.vocabulary import Reason
from stages.acquire import AcquireSettings
from stages.acquire.engine import Outcome, make_engine
from stages.acquire.fetch import Fetched, Fetcher, opts_out
from tests.stages.acquire.hostile_server import Server, answer, drip, moved

EXPECTED: dict[str, tuple[Reason | None, int | None]] = {
    "/ok.jpg": (None, 200),
    "/zipped.jpg": (None, 200),
    "/moved.jpg": (None, 200),
    "/flaky.jpg": (None, 200),
    "/busy.jpg": (None, 200),
    "/private/ok.jpg": (None, 200),
    "/noai-for-others.jpg": (None, 200),
    "/missing.jpg": (Reason.HTTP_CLIENT_ERROR, 404),
    "/gone.jpg": (Reason.HTTP_CLIENT_ERROR, 410),
    "/empty.jpg": (Reason.HTTP_OTHER, 204),
    "/not-modified.jpg": (Reason.HTTP_OTHER, 304),
    "/to-nowhere.jpg": (Reason.HTTP_OTHER, 302),
    "/500.jpg": (Reason.HTTP_SERVER_ERROR, 500),
    "/busy-for-hours.jpg": (Reason.HTTP_SERVER_ERROR, 503),
    "/drip.jpg": (Reason.DEADLINE, 200),
    "/silent.jpg": (Reason.TIMEOUT, None),
    "/endless.jpg": (Reason.TOO_LARGE, 200),
    "/endless-header.jpg": (Reason.PROTOCOL_ERROR, None),
    "/says-large.jpg": (Reason.TOO_LARGE, 200),
    "/short.jpg": (Reason.CONNECT_ERROR, 200),
    "/bomb.jpg": (Reason.TOO_LARGE, 200),
    "/bad-gzip.jpg": (Reason.PROTOCOL_ERROR, 200),
    "/garbage.jpg": (Reason.PROTOCOL_ERROR, None),
    "/hangs-up.jpg": (Reason.CONNECT_ERROR, None),
    "/loop.jpg": (Reason.TOO_MANY_REDIRECTS, 302),
    "/to-file.jpg": (Reason.BAD_URL, 302),
    "/to-metadata.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-private.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-mapped.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/closed/ok.jpg": (Reason.ROBOTS, None),
    "/to-closed.jpg": (Reason.ROBOTS, 302),
    "/noai.jpg": (Reason.OPT_OUT, 200),
    "/noai-for-us.jpg": (Reason.OPT_OUT, 200),
    "/tdm.jpg": (Reason.OPT_OUT, 200),
    "/page.jpg": (Reason.NOT_A_PICTURE, 200),
    "/drawing.svg": (Reason.NOT_A_PICTURE, 200),
    "/broken.jpg": (Reason.DECODE_ERROR, 200),
    "/huge.png": (Reason.TOO_MANY_PIXELS, 200),
    "/large.png": (Reason.TOO_MANY_PIXELS, 200),
    "/pixel.png": (Reason.TOO_FEW_PIXELS, 200),
}


def fetch(url: str, settings: AcquireSettings) -> Fetched:
    async def once() -> Fetched:
        async with Fetcher(settings) as fetcher:
            return await fetcher.fetch(url)

    return asyncio.run(once())


def acquire(urls: list[str], settings: AcquireSettings) -> list[Outcome]:
    engine = make_engine(settings)
    try:
        return engine.acquire(urls)
    finally:
        engine.close()


def test_every_behaviour_has_its_reason(hostile: Server, settings: AcquireSettings) -> None:
    hostile.asked.clear()
    outcomes = acquire([hostile.url(path) for path in EXPECTED], settings)
    found = {path: (row["reason"], row["http_status"]) for path, (row, _) in zip(EXPECTED, outcomes, strict=True)}
    assert found == EXPECTED
    for row, picture in outcomes:
        assert (picture is None) == (row["reason"] is not None) == (row["error_message"] is not None)
    assert hostile.asked["/robots.txt"] == 1
    assert hostile.asked["/closed/ok.jpg"] == 0
    assert hostile.asked["/missing.jpg"] == hostile.asked["/busy-for-hours.jpg"] == 1
    assert hostile.asked["/500.jpg"] == 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a url",
        "ftp://example.com/x.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "//example.com/x.jpg",
        "http://",
        "http:///x.jpg",
        "http://127.1/x.jpg",
        "http://2130706433/x.jpg",
        "http://example.com:99999/x.jpg",
        "http://" + "a" * 70 + ".com/x.jpg",
        "http://[::1/x.jpg",
        "http://exa mple.com/x.jpg",
    ],
)
def test_bad_urls(url: str, settings: AcquireSettings) -> None:
    assert fetch(url, settings).reason is Reason.BAD_URL


def test_loopback_is_closed_unless_allowed(hostile: Server, settings: AcquireSettings) -> None:
    hostile.asked.clear()
    closed = settings.model_copy(update={"allow_networks": []})
    for url in (hostile.url("/ok.jpg"), f"http://localhost:{hostile.port}/ok.jpg", f"http://[::1]:{hostile.port}/"):
        assert fetch(url, closed).reason is Reason.BLOCKED_ADDRESS
    assert not hostile.asked


def test_refused_connection(closed_port: int, settings: AcquireSettings) -> None:
    for robots in (True, False):
        fetched = fetch(f"http://127.0.0.1:{closed_port}/x.jpg", settings.model_copy(update={"respect_robots": robots}))
        assert fetched.reason is Reason.CONNECT_ERROR


def test_certificates_are_checked(settings: AcquireSettings, good_jpeg: bytes) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(Path(__file__).with_name("self_signed.pem"))
    server = Server({"/ok.jpg": answer(good_jpeg)}, tls)
    try:
        url = server.url("/ok.jpg").replace("http:", "https:")
        assert fetch(url, settings).reason is Reason.CONNECT_ERROR
        assert not server.asked
    finally:
        server.close()


def test_name_without_address(monkeypatch: pytest.MonkeyPatch, settings: AcquireSettings) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert fetch("http://no-such-host.example/x.jpg", settings).reason is Reason.DNS_ERROR


def test_rebinding_does_not_pass(
    hostile: Server, settings: AcquireSettings, monkeypatch: pytest.MonkeyPatch, good_jpeg: bytes
) -> None:
    """A name whose address changes to a private one is refused then; an open address beside a private one is used."""
    narrow = settings.model_copy(update={"allow_networks": ["127.0.0.1/32"], "respect_robots": False})
    addresses: list[list[str]] = [["127.0.0.1"], ["192.168.0.1"], ["10.0.0.1", "127.0.0.1"], ["10.0.0.1", "10.0.0.2"]]

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    found = [fetch(f"http://rebinds.example:{hostile.port}/ok.jpg", narrow) for _ in range(4)]
    assert [each.reason for each in found] == [None, Reason.BLOCKED_ADDRESS, None, Reason.BLOCKED_ADDRESS]
    assert found[0].body == good_jpeg


def test_proxies_of_the_environment_are_not_used(
    hostile: Server, settings: AcquireSettings, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    assert fetch(hostile.url("/ok.jpg"), settings).body is not None


def test_says_who_asks(hostile: Server, settings: AcquireSettings) -> None:
    fetch(hostile.url("/ok.jpg"), settings.model_copy(update={"contact": "mailto:me@example.invalid"}))
    assert b"User-Agent: sluice/0.1 (+mailto:me@example.invalid)\r\n" in hostile.last_request


@pytest.mark.parametrize(
    ("robots", "reason"),
    [
        (answer(b"User-agent: *\nDisallow: /"), Reason.ROBOTS),
        (answer(b"\xef\xbb\xbfUser-agent: *\r\nDisallow: /\r\n"), Reason.ROBOTS),
        (answer(b"User-agent: otherbot\nDisallow: /"), None),
        (answer(b"<html>404</html>"), None),
        (answer(b"\xff\xfe\0\0" * 99), None),
        (answer(status="403 Forbidden"), None),
        (answer(status="500 Oops"), Reason.HTTP_SERVER_ERROR),
        (moved("/robots.txt"), None),
        (moved("http://169.254.169.254/robots.txt"), Reason.BLOCKED_ADDRESS),
        (b"", Reason.CONNECT_ERROR),
        (drip, Reason.DEADLINE),
    ],
)
def test_robots(robots: bytes, reason: Reason | None, good_jpeg: bytes, settings: AcquireSettings) -> None:
    server = Server({"/robots.txt": robots, "/x.jpg": answer(good_jpeg)})
    try:
        assert fetch(server.url("/x.jpg"), settings).reason is reason
        assert server.asked["/x.jpg"] == (reason is None)
        assert fetch(server.url("/x.jpg"), settings.model_copy(update={"respect_robots": False})).reason is None
    finally:
        server.close()


def test_robots_is_cut_at_its_cap(good_jpeg: bytes, settings: AcquireSettings) -> None:
    rules = b"User-agent: *\nDisallow: /closed/\n" + b"# filler\n" * 200_000
    server = Server({"/robots.txt": answer(rules)})
    try:
        assert fetch(server.url("/closed/x.jpg"), settings).reason is Reason.ROBOTS
    finally:
        server.close()


def test_per_host_is_kept(good_jpeg: bytes, settings: AcquireSettings) -> None:
    async def unhurried(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(answer(good_jpeg))

    server = Server({f"/{number}.jpg": unhurried for number in range(40)})
    try:
        urls = [server.url(path) for path in server.routes]
        outcomes = acquire(urls, settings.model_copy(update={"per_host": 3, "respect_robots": False}))
        assert all(row["reason"] is None for row, _ in outcomes)
        assert server.most_at_once <= 3
    finally:
        server.close()


@pytest.mark.parametrize(
    ("headers", "out"),
    [
        ([("X-Robots-Tag", "noai")], True),
        ([("x-robots-tag", "NOIMAGEAI")], True),
        ([("X-Robots-Tag", "nofollow, noindex")], True),
        ([("X-Robots-Tag", "none")], True),
        ([("X-Robots-Tag", "all")], False),
        ([("X-Robots-Tag", "nofollow, nosnippet, max-image-preview: none")], False),
        ([("X-Robots-Tag", "unavailable_after: Wed, 25 Jun 2031 15:00:00 GMT, noai")], True),
        ([("X-Robots-Tag", "unavailable_after: 25 Jun 2031 15:00:00 GMT")], False),
        ([("X-Robots-Tag", "sluice: noai")], True),
        ([("X-Robots-Tag", "SLUICE : nofollow, noai")], True),
        ([("X-Robots-Tag", "*: noai")], True),
        ([("X-Robots-Tag", "otherbot: noai, noindex")], False),
        ([("X-Robots-Tag", "otherbot: nofollow, sluice: noai")], True),
        ([("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "noimageai")], True),
        ([("X-Robots-Tag", "")], False),
        ([("tdm-reservation", "1")], True),
        ([("TDM-Reservation", " 1 ")], True),
        ([("tdm-reservation", "0")], False),
        ([], False),
    ],
)
def test_opt_out_headers(headers: list[tuple[str, str]], out: bool) -> None:
    assert bool(opts_out(CIMultiDictProxy(CIMultiDict(headers)), "sluice")) is out


def test_opt_out_can_be_turned_off(hostile: Server, settings: AcquireSettings) -> None:
    assert fetch(hostile.url("/tdm.jpg"), settings.model_copy(update={"respect_opt_out": False})).body is not None
