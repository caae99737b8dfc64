"""Asks for pictures over HTTP: politely, within limits, and with a reason for everything that does not come.

robots.txt is obeyed as RFC 9309 has it, per scheme, host and port: an answer of 4xx means that all is allowed; a
robots.txt that cannot be reached (5xx, 429, no connection) means that nothing is. Its rows then carry the reason for
which robots.txt was out of reach, since that, unlike a rule against us, may pass.
"""

from __future__ import annotations

import asyncio
import random
import re
import resource
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from types import TracebackType

import aiohttp
from multidict import CIMultiDictProxy
from protego import Protego
from yarl import URL

from schemas.vocabulary import Reason
from stages.acquire.guard import BlockedAddressError, guarded_connector
from stages.acquire.hosts import Host, Shelf
from stages.acquire.settings import AcquireSettings

_REDIRECTS = {301, 302, 303, 307, 308}
_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be read
#: Why a robots.txt counts as absent, which allows everything (RFC 9309, 2.3.1.3).
_NO_ROBOTS = {Reason.HTTP_CLIENT_ERROR, Reason.HTTP_OTHER, Reason.TOO_MANY_REDIRECTS, Reason.BAD_URL}
_ROBOTS_LAST_S = 24 * 3600  # RFC 9309, 2.4
_MOST_IDLE_HOSTS = 10_000
#: Characters of robots.txt texts that are kept while idle; parsed, a text takes about 30 times its size at worst.
_ROBOTS_KEPT = 8_000_000
_LONG_ROBOTS = 50_000  # characters; parsing more takes tens of milliseconds, in which the event loop must not stand
_MOST_FILES = 65_536
#: Of one answer, what may wait to be read before its connection is paused: most pictures come without a pause.
_BUFFER_BYTES = 512 * 1024
#: What another try may mend. The rest either stands, or (no address, no connection) seldom passes within a deadline.
_TRY_AGAIN = {Reason.TIMEOUT, Reason.HTTP_SERVER_ERROR}
_FIRST_PAUSE_S = 0.5
_OPT_OUT_WORDS = {"noai", "noimageai", "noindex", "noimageindex", "none"}
_FOR_ROBOT = re.compile(r"^([a-z_*][\w*.-]*)\s*:\s*(.*)$")
#: X-Robots-Tag directives that have a value after a colon, and so are no robot's name.
_VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


@dataclass(frozen=True)
class Fetched:
    """What came of one URL: a body, or a reason and a sentence for why there is none."""

    body: bytes | None
    http_status: int | None = None
    reason: Reason | None = None
    message: str | None = None


class _Dropped(Exception):
    """Ends one try. `retry_after_s` is the wait that the server asked for; `final` rules another try out."""

    def __init__(self, reason: Reason, message: str, retry_after_s: float | None = None, final: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.retry_after_s, self.final = reason, message, retry_after_s, final


@dataclass
class _Errand:
    """One URL on its way: seconds left of its deadline, and the last status seen."""

    left_s: float
    status: int | None = None


@dataclass
class _Robots:
    """An origin's robots.txt: the task that reads it, until when its outcome holds (loop time), and its length."""

    reading: asyncio.Task[Protego | Fetched] | None = None
    until: float = inf
    length: int = 0


class Fetcher:
    """Fetches URLs over a shared pool of connections. Use it with `async with`, in one event loop.

    It may live as long as the process does: what it remembers of hosts (robots.txt, turns, failures) is bounded.
    """

    def __init__(self, settings: AcquireSettings) -> None:
        self.settings = settings
        self._hosts: Shelf[str | None, Host] = Shelf(lambda _: Host(settings), _MOST_IDLE_HOSTS)
        self._robots: Shelf[URL, _Robots] = Shelf(lambda _: _Robots(), _ROBOTS_KEPT, lambda kept: 250 + kept.length)
        self._readings: set[asyncio.Task[Protego | Fetched]] = set()

    async def __aenter__(self) -> Fetcher:
        settings = self.settings
        _allow_many_connections()
        self._session = aiohttp.ClientSession(
            connector=guarded_connector(settings.allow_networks, limit=settings.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
            ),
            headers={"User-Agent": settings.identification, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "gzip"},
            trust_env=False,
            read_bufsize=_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)
        await self._session.close()

    async def fetch(self, url: str) -> Fetched:
        """Asks for a picture. Never raises for what the network or the server does."""
        return await self._try(url, robots=False)

    async def barred(self, url: str) -> Fetched | None:
        """Why robots.txt keeps us from asking for `url`, or None where it does not."""
        errand = _Errand(self.settings.deadline_s)
        try:
            if self.settings.respect_robots:
                await self._obey_robots(_parse(url), errand)
        except _Dropped as dropped:
            return Fetched(None, errand.status, dropped.reason, dropped.message)
        return None

    async def _try(self, url: str, robots: bool) -> Fetched:
        """Asks until an answer stands, the tries are used up, or the deadline leaves no room for another."""
        errand = _Errand(self.settings.deadline_s)
        for attempt in range(self.settings.retries + 1):
            try:
                return Fetched(await self._follow(url, errand, robots), errand.status)
            except _Dropped as dropped:
                outcome = Fetched(None, errand.status, dropped.reason, dropped.message)
                again = dropped.reason in _TRY_AGAIN and not dropped.final and attempt < self.settings.retries
                pause_s = max(_backoff_s(url, attempt), dropped.retry_after_s or 0) if again else 0
            if not again or pause_s >= errand.left_s:
                break
            await asyncio.sleep(pause_s)
            errand.left_s -= pause_s
            errand.status = None
        return outcome

    async def _follow(self, url: str, errand: _Errand, robots: bool) -> bytes:
        """Follows redirects by hand, so that each target is held to the same rules."""
        target = _parse(url)
        for _ in range(self.settings.max_redirects + 1):
            if self.settings.respect_robots and not robots:
                await self._obey_robots(target, errand)
            answer = await self._ask(target, errand, robots)
            if isinstance(answer, bytes):
                return answer
            target = answer
        raise _Dropped(Reason.TOO_MANY_REDIRECTS, f"more than {self.settings.max_redirects} redirects")

    async def _ask(self, target: URL, errand: _Errand, robots: bool) -> bytes | URL:
        """One request, when its host's turn comes, unless the host keeps failing.

        The errand's clock stands still while it waits for its turn: that wait is ours, not the server's.
        """
        with self._hosts.use(target.raw_host) as host:
            async with host.turn() as may_ask:
                if not may_ask:
                    raise _Dropped(Reason.HOST_FAILING, f"{target.host} has failed too often", final=True)
                try:
                    answer = await self._within_deadline(target, errand, robots)
                except _Dropped as dropped:
                    busy = errand.status == 429 and dropped.retry_after_s is not None
                    host.note(failed=dropped.reason.info.transient and not busy)
                    raise
                host.note(failed=False)
                return answer

    async def _within_deadline(self, target: URL, errand: _Errand, robots: bool) -> bytes | URL:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(errand.left_s):
                return await self._request(target, errand, robots)
        except TimeoutError:
            raise _Dropped(Reason.DEADLINE, f"no whole answer within {self.settings.deadline_s:g} s") from None
        finally:
            errand.left_s -= loop.time() - began

    async def _request(self, target: URL, errand: _Errand, robots: bool) -> bytes | URL:
        """One request: a body, or where a redirect leads. All that can go wrong becomes a `_Dropped`."""
        try:
            async with self._session.get(target, allow_redirects=False) as response:
                errand.status = response.status
                if response.status in _REDIRECTS and (location := response.headers.get("Location")):
                    return _parse(location, base=target)
                _judge_status(response)
                if robots:
                    return await _read(response, _ROBOTS_BYTES, whole=False)
                if self.settings.respect_opt_out and (header := opts_out(response.headers, self.settings.robot)):
                    raise _Dropped(Reason.OPT_OUT, f"header {header}")
                return await _read(response, self.settings.max_bytes)
        except aiohttp.ConnectionTimeoutError:
            message = f"no connection to {_where(target)} within {self.settings.connect_timeout_s:g} s"
            raise _Dropped(Reason.TIMEOUT, message) from None
        except aiohttp.ServerTimeoutError:
            message = f"no byte from {_where(target)} for {self.settings.read_timeout_s:g} s"
            raise _Dropped(Reason.TIMEOUT, message) from None
        except aiohttp.ClientConnectorCertificateError:
            raise _Dropped(Reason.CONNECT_ERROR, f"{_where(target)} has no valid certificate", final=True) from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, BlockedAddressError):
                raise _Dropped(Reason.BLOCKED_ADDRESS, f"{target.host}: {error.os_error}") from None
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise _Dropped(Reason.DNS_ERROR, f"no address for {target.host}") from None
            why = error.os_error.strerror or type(error.os_error).__name__
            raise _Dropped(Reason.CONNECT_ERROR, f"connection to {_where(target)} failed: {why}") from None
        except aiohttp.InvalidURL:
            raise _Dropped(Reason.BAD_URL, f"not a usable host: {target.host}") from None
        except aiohttp.ClientPayloadError as error:
            if isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError):
                raise _Dropped(Reason.PROTOCOL_ERROR, "the compressed answer does not unpack") from None
            raise _Dropped(Reason.CONNECT_ERROR, f"{_where(target)} broke off in the middle of the answer") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise _Dropped(Reason.CONNECT_ERROR, f"{_where(target)} broke the connection") from None
        except aiohttp.ClientError as error:
            raise _Dropped(Reason.PROTOCOL_ERROR, f"not a valid HTTP answer: {type(error).__name__}") from None
        except UnicodeError:
            raise _Dropped(Reason.BAD_URL, f"not a usable host: {target.host}") from None

    async def _obey_robots(self, target: URL, errand: _Errand) -> None:
        origin = target.origin()
        with self._robots.use(origin) as kept:
            reading = kept.reading
            if reading is None or kept.until <= asyncio.get_running_loop().time():
                kept.until = inf
                reading = kept.reading = asyncio.create_task(self._read_robots(origin, kept))
                self._readings.add(reading)
                reading.add_done_callback(self._readings.discard)
            # All rows of the host wait for this one reading, so none of them may cancel it.
            rules = reading.result() if reading.done() else await asyncio.shield(reading)
        if isinstance(rules, Fetched):
            assert rules.reason is not None
            errand.status = rules.http_status
            # Robots.txt has had its tries already; asking for it again for each of the host's rows would be a flood.
            raise _Dropped(rules.reason, f"{origin}/robots.txt: {rules.message}", final=True)
        if not rules.can_fetch(str(target), self.settings.robot):
            raise _Dropped(Reason.ROBOTS, f"{origin}/robots.txt does not allow {target.raw_path}")

    async def _read_robots(self, origin: URL, kept: _Robots) -> Protego | Fetched:
        """A host's rules, or why they are out of reach, which holds for a shorter time."""
        lasts_s = 0.0
        try:
            with self._robots.use(origin):
                fetched = await self._try(str(origin.with_path("/robots.txt")), robots=True)
                if fetched.body is None and fetched.reason not in _NO_ROBOTS:
                    lasts_s = self.settings.host_pause_s
                    return fetched
                text = (fetched.body or b"").decode("utf-8-sig", "replace")
                if len(text) > _LONG_ROBOTS:
                    rules = await asyncio.to_thread(Protego.parse, text)
                else:
                    rules = Protego.parse(text)
                kept.length, lasts_s = len(text), _ROBOTS_LAST_S
                return rules
        finally:
            kept.until = asyncio.get_running_loop().time() + lasts_s


def opts_out(headers: CIMultiDictProxy[str], robot: str) -> str | None:
    """The header by which an answer opts out of machine learning, or None.

    Args:
        headers: of the answer; X-Robots-Tag may stand there several times, each with directives for all robots or,
            after a name and a colon, for one.
        robot: our name, lower case.
    """
    if any(value.strip() == "1" for line in headers.getall("tdm-reservation", []) for value in line.split(",")):
        return "tdm-reservation: 1"
    for line in headers.getall("X-Robots-Tag", []):
        meant = True
        for item in line.lower().split(","):
            directive = item.strip()
            named = _FOR_ROBOT.match(directive)
            if named and named[1] not in _VALUED:
                meant = named[1] in ("*", robot)
                directive = named[2].strip()
            if meant and directive in _OPT_OUT_WORDS:
                return f"X-Robots-Tag: {directive}"
    return None


def _parse(text: str, base: URL | None = None) -> URL:
    try:
        url = URL(text.strip())
        url = base.join(url) if base else url
        usable = url.scheme in ("http", "https") and len((url.host or "").split()) == 1 and url.port != 0
    except (ValueError, TypeError):
        usable = False
    if not usable:
        raise _Dropped(Reason.BAD_URL, "not an http or https address" + (" after a redirect" if base else ""))
    return url.with_fragment(None)


def _judge_status(response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    message = f"HTTP status {status}"
    if status == 429 or 500 <= status < 600:
        raise _Dropped(Reason.HTTP_SERVER_ERROR, message, _retry_after_s(response.headers.get("Retry-After")))
    raise _Dropped(Reason.HTTP_CLIENT_ERROR if 400 <= status < 500 else Reason.HTTP_OTHER, message)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds that a Retry-After header (a number, or a date) asks for; None where it says nothing usable."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


async def _read(response: aiohttp.ClientResponse, most: int, whole: bool = True) -> bytes:
    """Reads a body of at most `most` bytes after decompression; with `whole` false, a longer one is cut there."""
    too_large = _Dropped(Reason.TOO_LARGE, f"larger than {most} bytes")
    if whole and (response.content_length or 0) > most:
        raise too_large
    pieces: list[bytes] = []
    length = 0
    while piece := await response.content.readany():
        pieces.append(piece)
        length += len(piece)
        if length > most:
            if whole:
                raise too_large
            break
    return b"".join(pieces)[:most]


def _where(target: URL) -> str:
    return f"{target.host}:{target.port}"


def _backoff_s(url: str, attempt: int) -> float:
    """A pause that doubles from try to try, with jitter that is the same for a URL in every run."""
    return _FIRST_PAUSE_S * 2**attempt * (0.5 + random.Random(url).random())


def _allow_many_connections() -> None:
    """Lifts the process's limit of open files to what it may set itself: idle connections of many hosts add up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
