"""Every bad behaviour of a server has its reason, and nothing is fetched that must not be."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from schemas.vocabulary import Reason
from stages.acquire import AcquireSettings
from stages.acquire.engine import Outcome, make_engine
from stages.acquire.fetch import Fetched, Fetcher, opts_out
from tests.stages.acquire.hostile_server import Behaviour, Server, answer, drip, moved, raw

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
    "/tdm-second.jpg": (Reason.OPT_OUT, 200),
    "/noindex.jpg": (Reason.OPT_OUT, 200),
    "/not-opted-out.jpg": (None, 200),
    "/401.jpg": (Reason.HTTP_CLIENT_ERROR, 401),
    "/403.jpg": (Reason.HTTP_CLIENT_ERROR, 403),
    "/451.jpg": (Reason.HTTP_CLIENT_ERROR, 451),
    "/206.jpg": (Reason.HTTP_OTHER, 206),
    "/101.jpg": (Reason.HTTP_OTHER, 101),
    "/999.jpg": (Reason.HTTP_OTHER, 999),
    "/429.jpg": (Reason.HTTP_SERVER_ERROR, 429),
    "/busy-until-never.jpg": (Reason.HTTP_SERVER_ERROR, 503),
    "/busy-nonsense.jpg": (None, 200),
    "/busy-for-eons.jpg": (Reason.HTTP_SERVER_ERROR, 503),
    "/busy-until-past.jpg": (None, 200),
    "/endless-404.jpg": (Reason.HTTP_CLIENT_ERROR, 404),
    "/endless-moved.jpg": (None, 200),
    "/endless-chunks.jpg": (Reason.TOO_LARGE, 200),
    "/endless-gzip.jpg": (Reason.TOO_LARGE, 200),
    "/drip-header.jpg": (Reason.DEADLINE, None),
    "/drip-continue.jpg": (Reason.DEADLINE, None),
    "/says-less.jpg": (Reason.PROTOCOL_ERROR, None),
    "/says-nothing.jpg": (None, 200),
    "/two-lengths.jpg": (Reason.PROTOCOL_ERROR, None),
    "/negative-length.jpg": (Reason.PROTOCOL_ERROR, None),
    "/length-and-chunks.jpg": (Reason.PROTOCOL_ERROR, None),
    "/chunks.jpg": (None, 200),
    "/cut-chunks.jpg": (Reason.CONNECT_ERROR, 200),
    "/bad-chunks.jpg": (Reason.PROTOCOL_ERROR, None),
    "/huge-chunk.jpg": (Reason.PROTOCOL_ERROR, None),
    "/deflate.jpg": (None, 200),
    "/brotli.jpg": (Reason.PROTOCOL_ERROR, None),
    "/cut-gzip.jpg": (Reason.DECODE_ERROR, 200),
    "/many-headers.jpg": (Reason.PROTOCOL_ERROR, None),
    "/long-status.jpg": (Reason.PROTOCOL_ERROR, None),
    "/spaced-header.jpg": (Reason.PROTOCOL_ERROR, None),
    "/http2.jpg": (Reason.PROTOCOL_ERROR, None),
    "/three-hops.jpg": (None, 200),
    "/two-hops.jpg": (None, 200),
    "/four-hops.jpg": (Reason.TOO_MANY_REDIRECTS, 302),
    "/hops-to-private.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-ftp.jpg": (Reason.BAD_URL, 302),
    "/to-data.jpg": (Reason.BAD_URL, 302),
    "/to-script.jpg": (Reason.BAD_URL, 302),
    "/to-no-port.jpg": (Reason.BAD_URL, 302),
    "/to-loopback6.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-nat64.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-6to4.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-teredo.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-zone.jpg": (Reason.BLOCKED_ADDRESS, None),
    "/to-nonsense.jpg": (Reason.BAD_URL, 302),
    "/nothing.jpg": (Reason.NOT_A_PICTURE, 200),
    "/plain-svg.jpg": (Reason.NOT_A_PICTURE, 200),
    "/lying.avif": (Reason.DECODE_ERROR, 200),
    "/large-tile.tiff": (Reason.DECODE_ERROR, 200),
    "/broken.png": (Reason.DECODE_ERROR, 200),
    "/broken.webp": (Reason.DECODE_ERROR, 200),
    "/broken.gif": (Reason.DECODE_ERROR, 200),
    "/ok.gif": (None, 200),
}


def fetch(url: str, settings: AcquireSettings) -> Fetched:
    return fetch_in_turn([url], settings)[0]


def fetch_in_turn(urls: list[str], settings: AcquireSettings) -> list[Fetched]:
    """One after the other, by one fetcher."""

    async def all_of_them() -> list[Fetched]:
        async with Fetcher(settings) as fetcher:
            return [await fetcher.fetch(url) for url in urls]

    return asyncio.run(all_of_them())


@contextmanager
def serving(routes: Mapping[str, Behaviour | list[bytes]]) -> Iterator[Server]:
    server = Server(dict(routes))
    try:
        yield server
    finally:
        server.close()


def acquire(urls: list[str], settings: AcquireSettings) -> list[Outcome]:
    engine = make_engine(settings)
    try:
        return engine.acquire(urls)
    finally:
        engine.close()


def test_every_behaviour_has_its_reason(hostile: Server, settings: AcquireSettings) -> None:
    hostile.asked.clear()
    # So many bad answers at once keep this process busy: what is no matter of time must not become one.
    patient = settings.model_copy(update={"deadline_s": 8, "read_timeout_s": 1.5, "concurrency": 16})
    outcomes = acquire([hostile.url(path) for path in EXPECTED], patient)
    found = {path: (row["reason"], row["http_status"]) for path, (row, _) in zip(EXPECTED, outcomes, strict=True)}
    assert found == EXPECTED
    for row, picture in outcomes:
        assert (picture is None) == (row["reason"] is not None) == (row["error_message"] is not None)
    assert hostile.asked["/robots.txt"] == 1
    assert hostile.asked["/closed/ok.jpg"] == 0
    assert hostile.asked["/missing.jpg"] == hostile.asked["/busy-for-hours.jpg"] == 1
    assert hostile.asked["/500.jpg"] == 2
    for path in ("/short.jpg", "/busy-for-eons.jpg"):
        assert hostile.asked[path] == 1, path


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
        "http://[::1]x/",
        "http://.../x.jpg",
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


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "0x7f.1",
        "0x7f000001",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "127.0.0.1.",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "%31%32%37.0.0.1",
        "localhost",
        "LOCALHOST.",
        "[::]",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[::1%25lo]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "public.example@127.0.0.1",
        "127.0.0.1#@public.example",
    ],
)
def test_no_spelling_of_loopback_is_asked(hostile: Server, settings: AcquireSettings, host: str) -> None:
    hostile.asked.clear()
    name, mark, rest = host.partition("#")
    closed = settings.model_copy(update={"allow_networks": [], "respect_robots": False})
    url = f"http://{name}:{hostile.port}/ok.jpg{mark}{rest}"
    refusals = (Reason.BLOCKED_ADDRESS, Reason.BAD_URL, Reason.DNS_ERROR)
    assert fetch(url, closed).reason in refusals
    again = settings.model_copy(update={"allow_networks": ["127.0.0.2/32"], "respect_robots": False})
    assert fetch(url, again).reason in refusals
    assert not hostile.asked


def test_a_name_that_changes_its_address_is_judged_by_the_one_connected_to(
    hostile: Server, settings: AcquireSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: robots.txt comes from an allowed address, and then the name points to another one."""
    addresses = ["127.0.0.1", "10.0.0.1"]

    def changing(host: str, port: int, *_: object, **__: object) -> list[object]:
        address = addresses.pop(0) if len(addresses) > 1 else addresses[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr("aiohttp.connector._DNSCacheTable.expired", lambda *_: True)
    hostile.asked.clear()
    fetched = fetch(f"http://rebinding.example:{hostile.port}/ok.jpg", settings)
    assert fetched.reason is Reason.BLOCKED_ADDRESS
    assert hostile.asked == {"/robots.txt": 1}


def test_a_name_with_several_private_addresses_is_blocked(
    monkeypatch: pytest.MonkeyPatch, settings: AcquireSettings
) -> None:
    def both(host: str, port: int, *_: object, **__: object) -> list[object]:
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    assert fetch("http://intranet.example/x.jpg", settings).reason is Reason.BLOCKED_ADDRESS


def test_a_failing_host_is_left_alone_and_then_probed(settings: AcquireSettings, good_jpeg: bytes) -> None:
    failure = answer(status="500 Oops")
    update = {"retries": 0, "host_failures": 3, "respect_robots": False}
    with serving({f"/{number}.jpg": failure for number in range(9)} | {"/ok.jpg": answer(good_jpeg)}) as server:
        urls = [server.url(f"/{number}.jpg") for number in range(9)]
        # 404 and 200 are answers: they close the gap between failures.
        fetched = fetch_in_turn(
            [*urls[:2], server.url("/none.jpg"), *urls[2:4], server.url("/ok.jpg"), *urls[4:], server.url("/ok.jpg")],
            settings.model_copy(update=update),
        )
        failed, left = Reason.HTTP_SERVER_ERROR, Reason.HOST_FAILING
        expected = [failed, failed, Reason.HTTP_CLIENT_ERROR, failed, failed, None, failed, failed, failed, left, left]
        assert [found.reason for found in fetched] == [*expected, left]
        assert left.info.transient
        assert server.asked.total() == 9
        # With no pause, each further row is a probe; one that is answered closes the breaker.
        server.asked.clear()
        impatient = settings.model_copy(update=update | {"host_pause_s": 1e-9})
        fetched = fetch_in_turn([*urls[:5], server.url("/ok.jpg"), urls[5]], impatient)
        assert [found.reason for found in fetched] == [failed] * 5 + [None, failed]
        assert server.asked.total() == 7
        # Zero turns the breaker off.
        assert {found.reason for found in fetch_in_turn(urls, settings.model_copy(update={"retries": 0}))} == {failed}


def test_being_told_to_wait_is_no_failure_of_the_host(settings: AcquireSettings) -> None:
    update = {"retries": 0, "host_failures": 2, "respect_robots": False}
    with serving(
        {
            "/wait.jpg": answer(status="429 Too Many Requests", Retry_After="3600"),
            "/busy.jpg": answer(status="429 Too Many Requests"),
        }
    ) as server:
        waits = fetch_in_turn([server.url("/wait.jpg")] * 5, settings.model_copy(update=update))
        assert [found.http_status for found in waits] == [429] * 5
        busy = fetch_in_turn([server.url("/busy.jpg")] * 3, settings.model_copy(update=update))
        assert busy[2].reason is Reason.HOST_FAILING


def test_a_host_out_of_reach_does_not_touch_others(
    settings: AcquireSettings, good_jpeg: bytes, closed_port: int
) -> None:
    """The breaker goes by host name, so the reachable one is asked for by another name of loopback."""
    update = {"retries": 0, "host_failures": 1, "respect_robots": False}
    with serving({"/ok.jpg": answer(good_jpeg)}) as server:
        dead, alive = f"http://127.0.0.2:{closed_port}/x.jpg", server.url("/ok.jpg")
        fetched = fetch_in_turn([dead, alive, dead, alive], settings.model_copy(update=update))
        assert [found.reason for found in fetched] == [Reason.CONNECT_ERROR, None, Reason.HOST_FAILING, None]


def test_a_cancelled_row_does_not_break_those_that_wait_for_the_same_robots(
    settings: AcquireSettings, good_jpeg: bytes
) -> None:
    asked, go_on = threading.Event(), threading.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.to_thread(go_on.wait)
        writer.write(answer(b"User-agent: *\nDisallow: /closed/"))

    async def rows(server: Server) -> tuple[object, object]:
        async with Fetcher(settings.model_copy(update={"read_timeout_s": 30, "deadline_s": 60})) as fetcher:
            first, second = (asyncio.create_task(fetcher.fetch(server.url("/ok.jpg"))) for _ in range(2))
            await asyncio.to_thread(asked.wait)
            first.cancel()
            await asyncio.wait([first])
            go_on.set()
            return first.cancelled(), (await second).reason

    with serving({"/robots.txt": held, "/ok.jpg": answer(good_jpeg)}) as server:
        assert asyncio.run(rows(server)) == (True, None)
        assert server.asked == {"/robots.txt": 1, "/ok.jpg": 1}


def test_a_fetcher_that_is_closed_ends_its_reading_of_robots(settings: AcquireSettings) -> None:
    asked = threading.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.Event().wait()

    async def leave(server: Server) -> set[asyncio.Task[object]]:
        async with Fetcher(settings.model_copy(update={"read_timeout_s": 60, "deadline_s": 60})) as fetcher:
            row = asyncio.create_task(fetcher.fetch(server.url("/ok.jpg")))
            await asyncio.to_thread(asked.wait)
            row.cancel()
            await asyncio.wait([row])
        return asyncio.all_tasks() - {asyncio.current_task()}

    with serving({"/robots.txt": held}) as server:
        assert asyncio.run(leave(server)) == set()


def test_robots_rules_are_read_again_when_they_have_expired(
    settings: AcquireSettings, good_jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [answer(b"User-agent: *\nDisallow: /"), answer(b"")]
    with serving({"/robots.txt": rules, "/ok.jpg": answer(good_jpeg)}) as server:
        urls = [server.url("/ok.jpg")] * 3
        assert [found.reason for found in fetch_in_turn(urls, settings)] == [Reason.ROBOTS] * 3
        assert server.asked["/robots.txt"] == 1
        server.asked.clear()
        monkeypatch.setattr("stages.acquire.fetch._ROBOTS_LAST_S", 0)
        assert [found.reason for found in fetch_in_turn(urls, settings)] == [Reason.ROBOTS, None, None]
        assert server.asked["/robots.txt"] == 3


def test_robots_out_of_reach_is_asked_again_after_the_hosts_pause(settings: AcquireSettings, good_jpeg: bytes) -> None:
    rules = [answer(status="500 Oops"), answer(b"")]
    once = settings.model_copy(update={"retries": 0})
    for pause_s, expected in ((60, [Reason.HTTP_SERVER_ERROR] * 2), (1e-9, [Reason.HTTP_SERVER_ERROR, None])):
        with serving({"/robots.txt": rules, "/ok.jpg": answer(good_jpeg)}) as server:
            fetched = fetch_in_turn([server.url("/ok.jpg")] * 2, once.model_copy(update={"host_pause_s": pause_s}))
            assert [found.reason for found in fetched] == expected


def test_barred_tells_what_robots_says(hostile: Server, settings: AcquireSettings) -> None:
    async def both() -> list[Reason | None]:
        async with Fetcher(settings) as fetcher:
            found = [await fetcher.barred(hostile.url(path)) for path in ("/ok.jpg", "/closed/ok.jpg")]
            return [barred and barred.reason for barred in found]

    assert asyncio.run(both()) == [None, Reason.ROBOTS]


def test_we_say_who_we_are(hostile: Server, settings: AcquireSettings) -> None:
    update = {"user_agent": "Sluice/9", "contact": "mailto:me@example.org", "respect_robots": False}
    assert fetch(hostile.url("/ok.jpg"), settings.model_copy(update=update)).reason is None
    lines = hostile.last_request.decode().split("\r\n")
    assert "User-Agent: Sluice/9 (+mailto:me@example.org)" in lines
    assert not any(line.lower().startswith(("cookie:", "referer:", "authorization:")) for line in lines)


_GOOD = raw("HTTP/1.1 200 OK", "Content-Length: 12", "Retry-After: 1", "X-Robots-Tag: all", body=b"twelve bytes")


@hypothesis_settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, len(_GOOD)), st.binary(max_size=8), st.integers(0, 8)), max_size=4),
    st.sampled_from([200, 301, 302, 404, 429, 503]),
)
def test_no_answer_breaks_the_fetcher(changes: list[tuple[int, bytes, int]], status: int) -> None:
    given_up = AcquireSettings(
        allow_networks=["127.0.0.0/8"], respect_robots=False, retries=0, read_timeout_s=0.05, deadline_s=0.2
    )
    spoilt = _GOOD.replace(b"200", b"%d" % status)
    for place, patch, gone in changes:
        spoilt = spoilt[:place] + patch + spoilt[place + gone :]
    _SPOILT.routes["/x.jpg"] = spoilt
    fetched = fetch(_SPOILT.url("/x.jpg"), given_up)
    assert (fetched.body is None) == (fetched.reason is not None)


@pytest.fixture(scope="module", autouse=True)
def _close_spoilt() -> Iterator[None]:
    yield
    _SPOILT.close()


_SPOILT = Server()
