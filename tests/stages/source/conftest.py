"""Real stores on the loopback address, and a session of S3 clients that find theirs."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from tests.s3_store import found_s3, serve

#: Brings a local folder into a store under a name; gives its address.
Give = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Give]:
    """A bucket that this process's S3 clients find by the environment."""
    with found_s3(tmp_path_factory.mktemp("s3")):

        def give(local: Path, name: str) -> str:
            S3FileSystem().put(f"{local}/", f"bucket/{name}/", recursive=True)
            return f"s3://bucket/{name}"

        yield give


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Give]:
    """A web server that lists folders and answers ranges."""
    folder = tmp_path_factory.mktemp("web")
    with serve("http", folder, "--dir-cache-time", "0s") as url:

        def give(local: Path, name: str) -> str:
            shutil.copytree(local, folder / name)
            return f"{url}/{name}"

        yield give


@pytest.fixture
def plain_web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server over `tmp_path` that does not know ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None: ...  # a client that goes away is none

    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
