"""A Prefect server of the user's own, named by PREFECT_API_URL, sees the flow and its artifacts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import ROOT, environment, wait_for


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", process)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _asked(url: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_the_flow_is_told_to_the_users_server(server: str, recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "run", recipe, "--run-dir", tmp_path / "run", "--until", "source"]
    elsewhere = environment(tmp_path / "elsewhere") | {"PREFECT_API_URL": server}
    ran = subprocess.run([*map(str, command)], cwd=ROOT, env=elsewhere, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    (flow,) = _asked(f"{server}/flow_runs/filter")
    assert (flow["name"], flow["state_type"]) == ("small", "COMPLETED")
    assert {run["name"].rsplit("-", 1)[0] for run in _asked(f"{server}/task_runs/filter")} == {"source", "ledger"}
    assert {found["key"] for found in _asked(f"{server}/artifacts/filter")} == {"sluice-source", "sluice-ledger"}
    assert not (tmp_path / "elsewhere" / "prefect" / "prefect.db").exists()
