"""A small known world behind a real HTTP server, a recipe for it in miniature, and one finished run of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.pictures import free_port
from stages.sample import NoiseRates, make_world
from tests.models.conftest import TEMPLATE, make_tokenizer

ROOT = Path(__file__).parents[2]
SCENES = 160
#: Every kind of trouble but the two that end by a deadline, which cost it each time.
RATES = NoiseRates(slow=0, endless=0, huge=0.01)
#: So long a download may take: a machine that is busy with other tests drops no picture.
PATIENCE_S = 120

Sluice = Callable[..., subprocess.CompletedProcess[str]]


def environment(home: Path) -> dict[str, str]:
    """The environment of a command under test: offline, and with a Prefect home of its own."""
    return {
        **os.environ,
        "PREFECT_HOME": str(home / "prefect"),
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "COLUMNS": "160",
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    port = free_port()
    make_world(folder, SCENES, seed=4321, rates=RATES, base_url=f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "pipelines.cli", "serve", str(folder), "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=environment(folder))
    try:
        wait_for(f"http://127.0.0.1:{port}/robots.txt", process)
        yield folder
    finally:
        process.terminate()
        process.wait(10)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until `process` answers at `url`; raises what came instead where it ended, or did not within 2 minutes."""
    end = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end or process.poll() is not None:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="session")
def recipe(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe on the small world, with a language model in miniature and few steps."""
    folder = tmp_path_factory.mktemp("recipe")
    tokenizer = make_tokenizer(folder / "tokenizer", TEMPLATE)
    data: dict[str, Any] = yaml.safe_load((ROOT / "pipelines/recipes/demo.yaml").read_text())
    data["name"] = "small"
    data["source"] |= {"table": str(world / "urls.parquet"), "rows_per_part": 40}
    data["acquire"] |= {"retries": 0, "size": 96}
    data["acquire"] |= dict.fromkeys(("connect_timeout_s", "read_timeout_s", "deadline_s"), PATIENCE_S)
    data["instruct"] = {"kinds": {"caption": 1.0, "count": 1.0, "presence": 1.0, "position": 1.0}}
    data["feed"] = {"tokens_per_pack": 512, "holdout": 0.2}
    data["model"]["language"] = {
        "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                   "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 1024},
        "tokenizer": str(tokenizer), "chat_template": "bare",
    }  # fmt: skip
    common = {"packs_per_step": 4, "checkpoint_every": 3, "log_every": 2, "precision": "fp32"}
    data["train"] = [
        {"name": "align", "learn": {"connector": 1e-3}, "kinds": ["caption"], "epochs": 1, "max_steps": 4, **common},
        {"name": "instruct", "learn": {"connector": 1e-3, "language": 1e-3}, "epochs": 2, "max_steps": 14, **common},
    ]
    data["evaluate"] = {"questions": 60, "resamples": 200, "max_new_tokens": 4}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server. Runs that use it need not wait until one of their own is up."""
    home = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/api/health", process)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def sluice(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Sluice:
    """Runs the command as a user would; returns what came out."""
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        return run_command({**environment(home), "PREFECT_API_URL": prefect_server}, *arguments, check=check)

    return run


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]


def run_command(variables: dict[str, str], *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the command in this environment; returns what came out."""
    ran = subprocess.run(_command(*arguments), cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if check:
        assert ran.returncode == 0, f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"
    return ran


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never disturbed, with a Prefect of its own; `reference.json` beside it holds what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "reference"
    ran = run_command(environment(folder.parent), "run", recipe, "--run-dir", folder)
    folder.with_suffix(".json").write_text(json.dumps({"out": ran.stdout, "err": ran.stderr}))
    return folder


def kill_when(ready: str, run: Path, variables: dict[str, str], *arguments: object) -> None:
    """Starts a command and kills it with SIGKILL as soon as a path of the run folder that matches `ready` is there."""
    process = subprocess.Popen(_command(*arguments), cwd=ROOT, env=variables, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, start_new_session=True)  # fmt: skip
    end = time.monotonic() + 600
    try:
        while not any(run.glob(ready)):
            assert process.poll() is None, f"the run ended before {ready} was there"
            assert time.monotonic() < end, f"{ready} never came"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it had started
