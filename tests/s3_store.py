"""A real S3 endpoint for tests: `rclone serve s3` over a local folder, whose folders are the buckets."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "sluice-test", "never-in-a-manifest"


@contextmanager
def serve_s3(folder: Path) -> Iterator[dict[str, str]]:
    """Serves `folder` until the end; gives the environment variables by which S3 clients find it."""
    rclone = Path(sysconfig.get_path("scripts"), "rclone")
    command = [rclone, "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}", folder]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        said = ""
        while (address := re.search(r"Starting s3 server on \[(http://127\.0\.0\.1:\d+)", said)) is None:
            line = process.stderr.readline()
            assert line, f"rclone ended: {said}"
            said += line
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield {
            "AWS_ENDPOINT_URL": address[1],
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.terminate()
        process.wait(10)
