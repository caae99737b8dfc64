"""The engine `img2dataset`: that library's own download and resize functions, under this stage's rules.

It is here to be compared with. The library asks with urllib, a thread for each request, and knows no address guard,
deadline, cap or robots.txt; the opener below gives it those. What is its own way stays so: it tries again at once after
every failure, sends its own User-Agent with ours in it, and applies neither EXIF rotation nor ICC profiles.
"""

from __future__ import annotations

import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else one of its libraries asks a server for its version

# isort: split
import asyncio
import hashlib
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from multidict import CIMultiDict, CIMultiDictProxy
from PIL import Image

from schemas.errors import InputError
from schemas.vocabulary import Reason
from stages.acquire.decode import Picture, Refused, inspect
from stages.acquire.engine import Engine, Outcome, dropped, outcome
from stages.acquire.fetch import Fetched, Fetcher, opts_out
from stages.acquire.fingerprint import fingerprint, pixels_sha256
from stages.acquire.guard import BlockedAddressError, Network, is_blocked
from stages.acquire.settings import AcquireSettings

_MOST_THREADS = 64
_END_OF_JPEG, _TAIL = b"\xff\xd9", 1024
_OPT_OUT = ["noai", "noimageai", "noindex", "noimageindex"]


class Img2datasetEngine(Engine):
    """Drives `download_image_with_retry` and `Resizer` of img2dataset.

    urllib's opener is one for the whole process: while an engine lives, everything in it that uses urllib is guarded.

    Raises:
        InputError: img2dataset is not installed.
    """

    def __init__(self, settings: AcquireSettings) -> None:
        super().__init__(settings)
        try:
            from img2dataset.downloader import download_image_with_retry
            from img2dataset.resizer import Resizer
        except ImportError as error:
            raise InputError(
                "acquire.engine: img2dataset is not installed; pip install 'sluice[img2dataset]'"
            ) from error
        self._download = download_image_with_retry
        self._resizer = Resizer(
            image_size=settings.size,
            resize_mode="no" if settings.resize == "no" else "keep_ratio_largest",
            resize_only_if_bigger=True,
            encode_quality=settings.jpeg_quality,
            encode_format="jpg",
        )
        self._resizing = threading.Lock()  # the library turns the process's stdout off while it resizes
        self._threads = ThreadPoolExecutor(min(settings.concurrency, _MOST_THREADS), "urllib")
        self._robots = _Robots(settings)
        urllib.request.install_opener(_Opener(settings, self._robots))  # type: ignore[arg-type]

    def acquire(self, urls: Sequence[str]) -> list[Outcome]:
        turns: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(self.settings.per_host))
        gates = [turns[urlsplit(url).netloc if "//" in url else url] for url in urls]
        return list(self._threads.map(self._one, urls, gates))

    def close(self) -> None:
        urllib.request.install_opener(None)  # type: ignore[arg-type]
        self._threads.shutdown()
        self._robots.close()
        super().close()

    def _one(self, url: str, gate: threading.Semaphore) -> Outcome:
        settings = self.settings
        if urlsplit(url).scheme not in ("http", "https"):
            return dropped(Reason.BAD_URL, "not an http or https address")
        if barred := self._robots.bars(url):
            return dropped(barred.reason or Reason.ROBOTS, barred.message, barred.http_status)
        with gate, _errand(settings.deadline_s) as errand:
            directives = _OPT_OUT if settings.respect_opt_out else None
            _, stream, error = self._download(
                (0, url), settings.read_timeout_s, settings.retries, settings.robot, directives
            )
        if stream is None:
            return dropped(errand.reason or Reason.OPT_OUT, errand.message or error, errand.status)
        columns, picture = outcome(self._resize(stream.getvalue()))
        return columns | {"http_status": errand.status}, picture

    def _resize(self, body: bytes) -> Picture | Refused:
        if (refused := inspect(body, self.settings)) is not None:
            return refused
        digest = hashlib.sha256(body).hexdigest()
        if (
            body[:2] == b"\xff\xd8" and _END_OF_JPEG not in body[-_TAIL:]
        ):  # which OpenCV fills with grey, and says nothing
            return Refused(Reason.DECODE_ERROR, "the JPEG is cut short", digest)
        with self._resizing:
            jpeg, width, height, original_width, original_height, error = self._resizer(io.BytesIO(body))
        if error is not None:
            return Refused(Reason.DECODE_ERROR, error, digest)
        stored = Image.open(io.BytesIO(jpeg)).convert("RGB")
        found = fingerprint(stored), pixels_sha256(np.asarray(stored))
        return Picture(jpeg, width, height, original_width, original_height, *found, digest)


@dataclass
class _Errand:
    """One row on its way: until when it may take (monotonic time), and why its last request failed."""

    until: float
    status: int | None = None
    reason: Reason | None = None
    message: str | None = None
    sock: socket.socket | None = None
    late: bool = False

    def fail(self, reason: Reason, message: str) -> None:
        if self.late:
            reason, message = Reason.DEADLINE, "no whole answer within the deadline"
        self.reason, self.message = reason, message

    def give_up(self) -> None:
        """Called at the deadline: whatever the row is reading ends."""
        self.late = True
        if self.sock is not None:
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


@dataclass
class _Here(threading.local):
    errand: _Errand = field(default_factory=lambda: _Errand(float("inf")))


_here = _Here()


@contextmanager
def _errand(deadline_s: float) -> Iterator[_Errand]:
    """The errand of this thread's row, with a watchdog over its deadline."""
    errand = _here.errand = _Errand(time.monotonic() + deadline_s)
    watchdog = threading.Timer(deadline_s, errand.give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield errand
    finally:
        watchdog.cancel()


class _Robots:
    """robots.txt rules, read and kept by the default engine's fetcher, in a loop of its own."""

    def __init__(self, settings: AcquireSettings) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="robots", daemon=True)
        self._thread.start()
        self._fetcher = Fetcher(settings)
        asyncio.run_coroutine_threadsafe(self._fetcher.__aenter__(), self._loop).result()

    def bars(self, url: str) -> Fetched | None:
        return asyncio.run_coroutine_threadsafe(self._fetcher.barred(url), self._loop).result()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._fetcher.__aexit__(None, None, None), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class _Opener(urllib.request.OpenerDirector):
    """urllib's opener without proxies, files and FTP, whose sockets and answers obey the settings."""

    def __init__(self, settings: AcquireSettings, robots: _Robots) -> None:
        super().__init__()
        self.settings = settings
        plain, secure = _connections(settings)
        redirects = _Redirects(robots, settings.max_redirects)
        for handler in (_Http(plain), _Https(secure), redirects, urllib.request.HTTPDefaultErrorHandler(),
                        urllib.request.HTTPErrorProcessor(), urllib.request.UnknownHandler()):  # fmt: skip
            self.add_handler(handler)

    def open(self, request: Any, data: Any = None, timeout: Any = None) -> Any:
        errand = _here.errand
        errand.status = errand.reason = errand.message = None
        left = errand.until - time.monotonic()
        if left <= 0:
            errand.fail(Reason.DEADLINE, "no whole answer within the deadline")
            raise TimeoutError("deadline")
        try:
            response = super().open(request, data, min(self.settings.read_timeout_s, left))
        except (OSError, http.client.HTTPException, ValueError) as error:
            _note(errand, error)
            raise
        errand.status = response.status
        headers = CIMultiDictProxy(CIMultiDict(response.headers.items()))
        if self.settings.respect_opt_out and (header := opts_out(headers, self.settings.robot)):
            errand.fail(Reason.OPT_OUT, f"header {header}")
            raise PermissionError(f"header {header}")
        if response.status != 200:
            errand.fail(Reason.HTTP_OTHER, f"HTTP status {response.status}")
            raise OSError(f"HTTP status {response.status}")
        return response


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, robots: _Robots, most: int) -> None:
        self._robots = robots
        vars(self).update(max_redirections=most, max_repeats=most)

    def redirect_request(self, request: Any, stream: Any, code: int, text: str, headers: Any, url: str) -> Any:
        if urlsplit(url).scheme not in ("http", "https"):
            raise _RefusedError(Reason.BAD_URL, "not an http or https address after a redirect")
        if barred := self._robots.bars(url):
            raise _RefusedError(barred.reason or Reason.ROBOTS, barred.message or "robots.txt")
        return super().redirect_request(request, stream, code, text, headers, url)


class _RefusedError(OSError):
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connection: type[http.client.HTTPConnection]) -> None:
        super().__init__()
        self._connection = connection

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connection: type[http.client.HTTPSConnection]) -> None:
        self._made = ssl.create_default_context()
        super().__init__(context=self._made)
        self._connection = connection

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request, context=self._made)


def _connections(
    settings: AcquireSettings,
) -> tuple[type[http.client.HTTPConnection], type[http.client.HTTPSConnection]]:
    """Connection classes whose sockets go to allowed addresses only, and whose answers end at the cap."""
    allowed = [ipaddress.ip_network(network) for network in settings.allow_networks]

    class Answer(http.client.HTTPResponse):
        def read(self, amount: int | None = None) -> bytes:
            return super().read(amount) if amount is not None else _read_all(self, super().read, settings.max_bytes)

    class Plain(http.client.HTTPConnection):
        response_class = Answer

        def connect(self) -> None:
            self.sock = _open_socket(self.host, self.port, settings.connect_timeout_s, self.timeout, allowed)

    class Secure(http.client.HTTPSConnection):
        response_class = Answer

        def connect(self) -> None:
            plain = _open_socket(self.host, self.port, settings.connect_timeout_s, self.timeout, allowed)
            self.sock = self._context.wrap_socket(plain, server_hostname=self.host)  # type: ignore[attr-defined]
            _here.errand.sock = self.sock

    return Plain, Secure


def _open_socket(
    host: str, port: int, connect_timeout_s: float, read_timeout_s: Any, allowed: list[Network]
) -> socket.socket:
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if is_blocked(str(address[0]), allowed):
            failure = BlockedAddressError("not a public address")
            continue
        opened = socket.socket(family, kind, protocol)
        try:
            opened.settimeout(connect_timeout_s)
            opened.connect(address)
            opened.settimeout(read_timeout_s)
        except OSError as error:
            opened.close()
            failure = error
            continue
        _here.errand.sock = opened
        return opened
    raise failure


def _read_all(response: http.client.HTTPResponse, read: Any, most: int) -> bytes:
    """A body of at most `most` bytes.

    Raises:
        OSError: it is longer, breaks off, or does not end before the deadline; the errand knows why.
    """
    errand = _here.errand
    pieces, length = [], 0
    try:
        if (response.length or 0) > most:
            raise _RefusedError(Reason.TOO_LARGE, f"larger than {most} bytes")
        while piece := read(1 << 16):
            pieces.append(piece)
            length += len(piece)
            if length > most:
                raise _RefusedError(Reason.TOO_LARGE, f"larger than {most} bytes")
        if response.length or errand.late:
            raise _RefusedError(Reason.CONNECT_ERROR, "broke off in the middle of the answer")
    except (OSError, http.client.HTTPException) as error:
        _note(errand, error)
        raise
    return b"".join(pieces)


def _note(errand: _Errand, error: Exception) -> None:
    """Finds the reason for an error of urllib, http.client or a socket."""
    if isinstance(error, urllib.error.HTTPError):
        errand.status = error.code
        if error.code == 429 or error.code >= 500:
            reason = Reason.HTTP_SERVER_ERROR
        elif error.code in (301, 302, 303, 307, 308) and (target := error.headers.get("Location")):
            # urllib refuses other schemes with the same error as one redirect too many.
            web = urlsplit(target).scheme in ("", "http", "https")
            reason = Reason.TOO_MANY_REDIRECTS if web else Reason.BAD_URL
        else:
            reason = Reason.HTTP_CLIENT_ERROR if 400 <= error.code < 500 else Reason.HTTP_OTHER
        return errand.fail(reason, f"HTTP status {error.code}")
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    match cause:
        case _RefusedError():
            reason, message = cause.reason, cause.message
        case BlockedAddressError():
            reason, message = Reason.BLOCKED_ADDRESS, str(cause)
        case socket.gaierror():
            reason, message = Reason.DNS_ERROR, "no address for the host"
        case TimeoutError():
            reason, message = Reason.TIMEOUT, "no byte within the time-out"
        case http.client.RemoteDisconnected() | http.client.IncompleteRead():
            reason, message = Reason.CONNECT_ERROR, "the connection broke off"
        case http.client.InvalidURL() | UnicodeError() | ValueError():
            reason, message = Reason.BAD_URL, "not a usable address"
        case http.client.HTTPException():
            reason, message = Reason.PROTOCOL_ERROR, f"not a valid HTTP answer: {type(cause).__name__}"
        case _:
            reason, message = Reason.CONNECT_ERROR, f"connection failed: {cause}"
    return errand.fail(reason, message)
