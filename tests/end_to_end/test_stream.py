"""A run that streams while a server keeps its last part back: training begins before, and a kill changes nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console

from schemas.identity import digest_file
from stages.run_folder import RunFolder
from stages.sample import NoiseRates, make_world
from tests.end_to_end.conftest import ROOT, environment
from tests.models.conftest import TEMPLATE, make_tokenizer

ROWS, PARTS = 44, 4
#: A server waits so long for its gate, and a test for a file, seconds.
PATIENCE = 600


class Gate:
    """A server of pictures that answers requests for those of the last part when it is opened."""

    def __init__(self, folder: Path, held: set[str]) -> None:
        self.opened = threading.Event()
        gate = self

        class Handler(SimpleHTTPRequestHandler):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args, directory=str(folder))

            def do_GET(self) -> None:
                if self.path in held and not gate.opened.wait(PATIENCE):
                    self.send_error(404)
                else:
                    super().do_GET()

            def log_message(self, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def drive(recipe: str, folder: str) -> None:
    """What a driver process does: `sluice run --stream --until train` without Prefect."""
    from pipelines.line import Line, prepare, stages_until
    from pipelines.recipe import load_recipe
    from pipelines.stream import check_streams

    logging.basicConfig(level=logging.INFO)
    loaded = load_recipe(Path(recipe))
    check_streams(loaded)
    line = Line(loaded, RunFolder(folder), streams=True)
    prepare(line)
    for _, stage in stages_until("train", streams=True):
        stage(line)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    folder = tmp_path_factory.mktemp("world")
    made = Gate(folder, held := set())
    port = made.server.server_address[1]
    rates = NoiseRates.clean().model_copy(update={"duplicate_exact": 0.15, "missing": 0.03})
    make_world(folder, ROWS * PARTS, seed=7, rates=rates, base_url=f"http://127.0.0.1:{port}")
    urls = pq.read_table(folder / "urls.parquet")["url"].to_pylist()
    held |= {url.removeprefix(f"http://127.0.0.1:{port}") for url in urls[-ROWS:]}
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.opened.set()
    made.server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def recipe(gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    table = next(folder.parent.glob("world*/urls.parquet"))
    data: dict[str, Any] = yaml.safe_load((ROOT / "pipelines/recipes/demo.yaml").read_text())
    del data["evaluate"]
    data["name"] = "streamed"
    data["source"] |= {"table": str(table), "rows_per_part": ROWS}
    data["acquire"] |= {"deadline_s": PATIENCE, "read_timeout_s": PATIENCE, "retries": 0, "size": 64}
    data["select"]["clip"]["keep"] = {"min": -1.0}
    data["instruct"] = {"kinds": {"caption": 1.0, "count": 1.0, "presence": 1.0}}
    data["feed"] = {"tokens_per_pack": 384, "holdout": 0.1, "ahead": 2}
    data["model"]["language"] = {
        "config": {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                   "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512},
        "tokenizer": str(make_tokenizer(folder / "tokenizer", TEMPLATE)), "chat_template": "bare",
    }  # fmt: skip
    data["train"] = [
        {"name": "align", "learn": {"connector": 1e-3}, "schedule": "constant", "warmup_steps": 2, "packs_per_step": 2,
         "checkpoint_every": 1, "log_every": 1, "precision": "fp32", "validate_samples": 8}
    ]  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


@contextmanager
def _driver(recipe: Path, run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A driver process, which is gone at the end."""
    code = f"from tests.end_to_end.test_stream import drive; drive({str(recipe)!r}, {str(run)!r})"
    with open(run.with_suffix(".err"), "wb") as told:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", code],
            cwd=ROOT,
            env=environment(run.parent),
            stderr=told,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for(driver: subprocess.Popen[bytes], run: Path, pattern: str) -> None:
    """Waits until a file of the run that matches is there and holds something."""
    end = time.monotonic() + PATIENCE
    while not any(path.stat().st_size for path in run.glob(pattern)):
        assert driver.poll() is None, run.with_suffix(".err").read_text()[-3000:]
        if time.monotonic() > end:
            driver.send_signal(signal.SIGABRT)  # it prints what each of its threads waits for
            driver.wait()
            pytest.fail(f"{pattern} never came: {run.with_suffix('.err').read_text()[-6000:]}")
        time.sleep(0.02)


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "logs/align.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def streamed(gate: Gate, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose last part could be acquired only after an optimizer step was logged."""
    run = tmp_path_factory.mktemp("runs") / "streamed"
    with _driver(recipe, run) as driver:
        _wait_for(driver, run, "logs/align.jsonl")
        assert not (run / f"manifests/acquire/{PARTS - 1:05d}.json").exists()
        gate.opened.set()
        assert driver.wait(PATIENCE) == 0, run.with_suffix(".err").read_text()[-3000:]
    return run


def test_training_begins_before_the_last_part_is_acquired_and_takes_it_in(streamed: Path) -> None:
    ledger = RunFolder(streamed).read_table("ledger").to_pylist()
    assert len(ledger) == ROWS * PARTS
    late = [row for row in ledger if row["row"] >= ROWS * (PARTS - 1)]
    assert {row["reason"] for row in late} <= {None, "duplicate_exact", "duplicate_perceptual", "http_4xx",
                                               "duplicate_semantic"}  # fmt: skip
    plan = pq.read_table(streamed / "plan/align.parquet")
    trained = {row["sample_id"] for row in late if row["split"] == "train"}
    assert len(trained) > 20 and trained <= set(plan["sample_id"].to_pylist())
    lines = _log(streamed)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert lines[-1]["packs"] == plan["pack"][-1].as_py() + 1 and "validation" in lines[-1]


def test_of_duplicates_the_first_part_s_stays_and_the_ledger_says_by_which_rule(streamed: Path) -> None:
    ledger = RunFolder(streamed).read_table("ledger").to_pylist()
    kept = {row["sample_id"]: row for row in ledger if row["state"] == "kept"}
    copies = [row for row in ledger if row["duplicate_of"]]
    assert len(copies) > 5 and {row["dedup"] for row in copies} == {"earlier"}
    assert all(kept[row["duplicate_of"]]["row"] // ROWS <= row["row"] // ROWS for row in copies)
    assert any(kept[row["duplicate_of"]]["row"] // ROWS < row["row"] // ROWS for row in copies)
    assert {row["dedup"] for row in ledger if not row["duplicate_of"]} == {None}


def test_status_report_and_trace_read_a_streamed_run(streamed: Path) -> None:
    from pipelines.report import write_report
    from pipelines.status import show_status
    from pipelines.trace import show_trace

    run, out = RunFolder(streamed), Console(record=True, width=200)
    sample = pq.read_table(streamed / "plan/align.parquet")["sample_id"][0].as_py()
    show_status(run, out)
    show_trace(run, sample, out)
    told = out.export_text()
    assert f"{PARTS}/{PARTS}" in told and "optimizer step 1" in told and "duplicate_exact" in told
    assert write_report(run) > 10_000


@pytest.mark.slow
def test_killed_while_it_trains_and_started_again_it_ends_as_if_it_had_not_been(
    gate: Gate, recipe: Path, streamed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    gate.opened.clear()
    with _driver(recipe, run) as driver:
        _wait_for(driver, run, "checkpoints/align/state/*/state.json")
        os.kill(driver.pid, signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in run.glob("manifests/plan/align/*.json")}
    assert 0 < len(done) < PARTS
    gate.opened.set()
    with _driver(recipe, run) as driver:
        assert driver.wait(PATIENCE) == 0, run.with_suffix(".err").read_text()[-3000:]
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for name in ("decisions.parquet", "plan/align.parquet", "checkpoints/align/final.safetensors"):
        assert digest_file(run / name) == digest_file(streamed / name), name
    for folder in ("select", "plan/align", "conversations", "shards", "ledger"):
        for path in (path for path in (streamed / folder).rglob("*") if path.is_file()):
            assert digest_file(run / path.relative_to(streamed)) == digest_file(path), path
    assert [line["loss"] for line in _log(run)] == [line["loss"] for line in _log(streamed)]
