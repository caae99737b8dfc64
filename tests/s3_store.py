"""Real servers of rclone for tests: S3 over a local folder, whose folders are the buckets, and the web."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from s3fs import S3FileSystem

KEY, SECRET = "sluice-test", "never-in-a-manifest"


@contextmanager
def serve_s3(folder: Path) -> Iterator[dict[str, str]]:
    """Serves `folder` until the end; gives the environment variables by which S3 clients find it."""
    with serve("s3", folder, "--auth-key", f"{KEY},{SECRET}") as url:
        yield {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def found_s3(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Serves `folder` with an empty bucket `bucket` in it, as the store that this process's S3 clients find."""
    (folder / "bucket").mkdir()
    with serve_s3(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield patch
    S3FileSystem.clear_instance_cache()


@contextmanager
def serve(protocol: str, folder: Path, *options: str) -> Iterator[str]:
    """Runs `rclone serve PROTOCOL` over `folder` on a free port until the end; gives its address."""
    rclone = Path(sysconfig.get_path("scripts"), "rclone")
    command = [rclone, "serve", protocol, "--addr", "127.0.0.1:0", *options, folder]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (address := re.search(r"erver (?:started )?on \[(http://127\.0\.0\.1:\d+)", said)) is None:
            line = process.stderr.readline()
            assert line, f"rclone ended: {said}"
            said += line
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield address[1]
    finally:
        process.terminate()
        process.wait(10)
