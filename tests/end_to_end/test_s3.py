"""The whole line with its run folder on a real S3 endpoint: killed, started again, and the same as on a disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from typer.testing import CliRunner

from pipelines.cli import app
from schemas.identity import digest_file
from stages.run_folder import RunFolder
from tests.end_to_end.conftest import Sluice, environment, kill_when
from tests.s3_store import SECRET, serve_s3

URL = "s3://bucket/runs/small"
#: All of a run that is a function of recipe and seed.
SAME = ("source", "samples", "vectors", "conversations", "lengths", "shards", "plan", "ledger")


@pytest.fixture(scope="module")
def behind(
    tmp_path_factory: pytest.TempPathFactory, sluice: Sluice, prefect_server: str, recipe: Path
) -> Iterator[Path]:
    """What lies behind URL, which commands find by the environment: a run that was killed in training, then ended."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "bucket").mkdir()
    home = tmp_path_factory.mktemp("killed")
    with serve_s3(folder) as variables, pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        run = folder / "bucket/runs/small"
        variables = {**environment(home), "PREFECT_API_URL": prefect_server}
        kill_when("checkpoints/instruct/state/*/state.json", run, variables, "run", recipe, "--run-dir", URL)
        assert not (run / "checkpoints/instruct/final.safetensors").exists()
        ran = sluice("run", recipe, "--run-dir", URL)
        run.with_name("printed.txt").write_text(ran.stdout + ran.stderr)  # looked through for the secret
        yield run


def _digests(run: Path) -> dict[str, str]:
    files = [path for folder in SAME for path in (run / folder).rglob("*") if path.is_file()]
    files += [*run.glob("checkpoints/*/final.safetensors"), *run.glob("model/*"), run / "eval.json"]
    files.append(run / "decisions.parquet")
    return {str(path.relative_to(run)): digest_file(path) for path in files}


@pytest.mark.slow
def test_killed_in_training_and_started_again_it_ends_as_a_local_run(behind: Path, finished: Path) -> None:
    there, here = _digests(behind), _digests(finished)
    assert {"ledger/00000.parquet", "plan/instruct.parquet", "shards/train-000000.tar", "model/config.json"} <= set(
        here
    )
    assert there == here
    logs = [
        [(line["step"], line["loss"]) for line in map(json.loads, (run / "logs/instruct.jsonl").open())]
        for run in (behind, finished)
    ]
    assert logs[0] == logs[1]
    assert list(behind.glob("tensorboard/instruct/events*"))
    assert not (behind / "features").exists()
    assert not list(behind.glob("checkpoints/*/ray/**/*.*"))


@pytest.mark.slow
def test_started_again_it_does_nothing_again(behind: Path, sluice: Sluice, recipe: Path) -> None:
    def times() -> dict[Path, int]:
        """When each file was written, but for the two that every run writes."""
        files = [path for path in behind.rglob("*") if path.is_file()]
        return {path: path.stat().st_mtime_ns for path in files if path.name not in ("recipe.yaml", "report.html")}

    before = times()
    sluice("run", recipe, "--run-dir", URL)
    assert times() == before


@pytest.mark.slow
def test_status_trace_report_and_export_read_the_store(behind: Path, finished: Path) -> None:
    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    S3FileSystem.clear_instance_cache()  # one that an earlier test left here would ask the endpoint of that test
    status = told("status", URL)
    assert "4/4" in status and "train instruct" in status and "Held-out questions" in status
    kept = next(row for row in RunFolder(finished).read_table("ledger").to_pylist() if row["split"] == "train")
    trace = told("trace", URL, kept["url"])
    for wanted in (kept["sample_id"], kept["shard"], "optimizer step", "-template"):
        assert wanted in trace
    assert told("report", URL).strip() == f"{URL}/report.html"
    assert RunFolder(URL).path("report.html").read_text().count("<img") > 10
    assert told("export", URL, "--to", "llava-json").strip() == f"{URL}/llava.json"
    assert json.loads(RunFolder(URL).path("llava.json").read_text())
    assert CliRunner().invoke(app, ["status", "s3://bucket/nothing"]).exit_code == 2


@pytest.mark.slow
def test_the_store_s_secret_is_nowhere_in_the_run(behind: Path) -> None:
    files = [path for path in behind.parent.rglob("*") if path.is_file()]
    assert len(files) > 50
    for path in files:
        assert SECRET.encode() not in path.read_bytes(), path
