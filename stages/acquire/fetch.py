"""Asks for pictures over HTTP: politely, within limits, and with a reason for everything that does not come.

robots.txt is obeyed as RFC 9309 has it, per scheme, host and port: an answer of 4xx means that all is allowed; a
robots.txt that cannot be reached (5xx, 429, no connection) means that nothing is. Its rows then carry the reason for
which robots.txt was out of reach, since that, unlike a rule against us, may pass.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType

import aiohttp
from multidict import CIMultiDictProxy
from protego import Protego
from yarl import URL

from schemas.vocabulary import Reason
from stages.acquire.guard import BlockedAddressError, guarded_connector
from stages.acquire.settings import AcquireSettings

_REDIRECTS = {301, 302, 303, 307, 308}
_ROBOTS_BYTES = 512 * 1024  # RFC 9309, 2.5: at least 500 KiB must be read
#: Why a robots.txt counts as absent, which allows everything (RFC 9309, 2.3.1.3).
_NO_ROBOTS = {Reason.HTTP_CLIENT_ERROR, Reason.HTTP_OTHER, Reason.TOO_MANY_REDIRECTS, Reason.BAD_URL}
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
    """Ends one try. `retry_after_s` is what the server asked for; `final` rules another try out."""

    def __init__(self, reason: Reason, message: str, retry_after_s: float = 0, final: bool = False) -> None:
        super().__init__(message)
        self.reason, self.message, self.retry_after_s, self.final = reason, message, retry_after_s, final


@dataclass
class _Errand:
    """One URL on its way: seconds left of its deadline, and the last status seen."""

    left_s: float
    status: int | None = None


class Fetcher:
    """Fetches URLs over a shared pool of connections. Use it with `async with`, once per event loop.

    Holds one robots.txt for every host it meets, for as long as it is open.
    """

    def __init__(self, settings: AcquireSettings) -> None:
        self.settings = settings
        self._gates: dict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(settings.per_host))
        self._robots: dict[URL, asyncio.Task[Protego | Fetched]] = {}

    async def __aenter__(self) -> Fetcher:
        settings = self.settings
        self._session = aiohttp.ClientSession(
            connector=guarded_connector(settings.allow_networks, limit=settings.concurrency),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
            ),
            headers={"User-Agent": settings.identification, "Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "gzip"},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def fetch(self, url: str) -> Fetched:
        """Asks for a picture. Never raises for what the network or the server does."""
        return await self._try(url, robots=False)

    async def _try(self, url: str, robots: bool) -> Fetched:
        """Asks until an answer stands, the tries are used up, or the deadline leaves no room for another."""
        errand = _Errand(self.settings.deadline_s)
        chance = random.Random(url)
        for attempt in range(self.settings.retries + 1):
            try:
                return Fetched(await self._follow(url, errand, robots), errand.status)
            except _Dropped as dropped:
                outcome = Fetched(None, errand.status, dropped.reason, dropped.message)
                pause_s = max(_FIRST_PAUSE_S * 2**attempt * (0.5 + chance.random()), dropped.retry_after_s)
                again = dropped.reason.info.transient and not dropped.final and attempt < self.settings.retries
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
            # The clock stands still while this row waits for its turn: that wait is ours, not the server's.
            async with self._gates[target.host]:
                answer = await self._within_deadline(target, errand, robots)
            if isinstance(answer, bytes):
                return answer
            target = answer
        raise _Dropped(Reason.TOO_MANY_REDIRECTS, f"more than {self.settings.max_redirects} redirects")

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
        where = f"{target.host}:{target.port}"
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
            message = f"no connection to {where} within {self.settings.connect_timeout_s:g} s"
            raise _Dropped(Reason.TIMEOUT, message) from None
        except aiohttp.ServerTimeoutError:
            message = f"no byte from {where} for {self.settings.read_timeout_s:g} s"
            raise _Dropped(Reason.TIMEOUT, message) from None
        except aiohttp.ClientConnectorCertificateError:
            raise _Dropped(Reason.CONNECT_ERROR, f"{where} has no valid certificate", final=True) from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, BlockedAddressError):
                raise _Dropped(Reason.BLOCKED_ADDRESS, f"{target.host}: {error.os_error}") from None
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise _Dropped(Reason.DNS_ERROR, f"no address for {target.host}") from None
            why = error.os_error.strerror or type(error.os_error).__name__
            raise _Dropped(Reason.CONNECT_ERROR, f"connection to {where} failed: {why}") from None
        except aiohttp.InvalidURL:
            raise _Dropped(Reason.BAD_URL, f"not a usable host: {target.host}") from None
        except aiohttp.ClientPayloadError as error:
            if isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError):
                raise _Dropped(Reason.PROTOCOL_ERROR, "the compressed answer does not unpack") from None
            raise _Dropped(Reason.CONNECT_ERROR, f"{where} broke off in the middle of the answer") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise _Dropped(Reason.CONNECT_ERROR, f"{where} broke the connection") from None
        except aiohttp.ClientError as error:
            raise _Dropped(Reason.PROTOCOL_ERROR, f"not a valid HTTP answer: {type(error).__name__}") from None
        except UnicodeError:
            raise _Dropped(Reason.BAD_URL, f"not a usable host: {target.host}") from None

    async def _obey_robots(self, target: URL, errand: _Errand) -> None:
        origin = target.origin()
        if origin not in self._robots:
            self._robots[origin] = asyncio.create_task(self._read_robots(origin))
        rules = await self._robots[origin]
        if isinstance(rules, Fetched):
            assert rules.reason is not None
            errand.status = rules.http_status
            # Robots.txt has had its tries already; asking for it again for each of the host's rows would be a flood.
            raise _Dropped(rules.reason, f"{origin}/robots.txt: {rules.message}", final=True)
        if not rules.can_fetch(str(target), self.settings.robot):
            raise _Dropped(Reason.ROBOTS, f"{origin}/robots.txt does not allow {target.raw_path}")

    async def _read_robots(self, origin: URL) -> Protego | Fetched:
        """A host's rules, or why they are out of reach."""
        fetched = await self._try(str(origin.with_path("/robots.txt")), robots=True)
        if fetched.body is None and fetched.reason not in _NO_ROBOTS:
            return fetched
        return Protego.parse((fetched.body or b"").decode("utf-8-sig", "replace"))


def opts_out(headers: CIMultiDictProxy[str], robot: str) -> str | None:
    """The header by which an answer opts out of machine learning, or None.

    Args:
        headers: of the answer; X-Robots-Tag may stand there several times, each with directives for all robots or,
            after a name and a colon, for one.
        robot: our name, lower case.
    """
    if headers.get("tdm-reservation", "").strip() == "1":
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
    if status == 429 or status >= 500:
        raise _Dropped(Reason.HTTP_SERVER_ERROR, message, _retry_after_s(response.headers.get("Retry-After", "")))
    raise _Dropped(Reason.HTTP_CLIENT_ERROR if 400 <= status < 500 else Reason.HTTP_OTHER, message)


def _retry_after_s(value: str) -> float:
    """Seconds that a Retry-After header (a number, or a date) asks for; 0 where it says nothing usable."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


async def _read(response: aiohttp.ClientResponse, most: int, whole: bool = True) -> bytes:
    """Reads a body of at most `most` bytes after decompression; with `whole` false, a longer one is cut there."""
    too_large = _Dropped(Reason.TOO_LARGE, f"larger than {most} bytes")
    if whole and (response.content_length or 0) > most:
        raise too_large
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            if whole:
                raise too_large
            break
    return bytes(body[:most])
