"""The command line: exit status 2 and one line for wrong input, and examples in every help text."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from s3fs import S3FileSystem
from typer.testing import CliRunner

from pipelines.cli import app
from stages.sample import NoiseRates, make_world

ROOT = Path(__file__).parents[2]
runner = CliRunner()
COMMANDS = (
    "sample", "serve", "check", "run", "train", "status", "report", "trace", "evaluate", "ask", "export", "tokenizer",
    "doctor",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, 10, seed=8, rates=NoiseRates.clean(), processes=1)
    return folder


def _recipe(folder: Path, **source: object) -> Path:
    path = folder / "t.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "source": source}))
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_text_with_an_example(name: str) -> None:
    told = runner.invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert told.exit_code == 0
    assert f"sluice {name}" in told.output


def _refused(*arguments: object) -> str:
    told = runner.invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "400"})
    assert told.exit_code == 2, told.output
    lines = [line for line in told.output.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("sluice: "), told.output
    return lines[0]


def test_wrong_input_ends_with_status_2_and_one_line(tmp_path: Path, world: Path) -> None:
    assert "there is no recipe" in _refused("run", tmp_path / "none.yaml")
    table = world / "urls.parquet"
    told = _refused("check", _recipe(tmp_path, table=str(table), caption="text"))
    assert "no column 'text'" in told and "url, caption, captions, boxes, licence" in told
    assert "cannot read" in _refused("check", _recipe(tmp_path, table=str(tmp_path / "none.parquet")))
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 not really")
    assert "broken.parquet" in _refused("check", _recipe(tmp_path, table=str(broken)))
    assert "not a run folder" in _refused("status", tmp_path)
    assert "did you mean 'wrong_caption'" in _refused("sample", tmp_path / "w", "--rate", "wrong_captoin=0.1")
    assert "there is no" in _refused("ask", tmp_path / "model", world / "world.json", "What?")
    assert "no such stage" in _refused("run", _recipe(tmp_path, table=str(table)), "--until", "dedupe")
    assert "holds no sample world" in _refused("serve", tmp_path)


def test_a_recipe_of_sections_that_are_not_built_is_refused(tmp_path: Path, world: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "t", "source": {"table": "x.parquet"}, "stream": True}))
    assert "unknown key 'stream'" in _refused("check", path)


def test_check_shows_graph_parts_and_cost(tmp_path: Path, world: Path) -> None:
    path = tmp_path / "recipe.yaml"
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "max_tokens": 100}
    path.write_text(
        yaml.safe_dump(
            {
                "name": "t",
                "source": {"table": str(world / "urls.parquet"), "rows_per_part": 4},
                "instruct": {"kinds": {"detail": 0.5, "caption": 1.0}, "endpoint": endpoint},
            }
        )
    )
    told = runner.invoke(app, ["check", str(path)], env={"COLUMNS": "300"})
    assert told.exit_code == 0, told.output
    assert "10 rows in 3 parts" in told.output
    assert "at most 5 requests and 500 tokens" in told.output


def test_check_says_what_a_picture_takes_and_refuses_a_model_whose_parts_do_not_fit(
    tmp_path: Path, world: Path
) -> None:
    def written(**model: object) -> Path:
        language = {"config": {"model_type": "llama"}, "tokenizer": str(tmp_path)}
        path = tmp_path / "recipe.yaml"
        section = {"vision": {"pretrained": "none"}, "language": language, **model}
        source = {"table": str(world / "urls.parquet")}
        path.write_text(yaml.safe_dump({"name": "t", "source": source, "model": section}))
        return path

    told = runner.invoke(app, ["check", str(written())], env={"COLUMNS": "300"})
    assert told.exit_code == 0, told.output
    assert "pixels is 1 tiles and 64 tokens; a pack has 2048" in told.output
    towers = [{"pretrained": "none"}, {"model": "ViT-B-32", "pretrained": "none"}]
    assert "towers side by side need the same" in _refused("check", written(vision=towers))


def test_doctor_names_each_lack_with_its_remedy() -> None:
    told = runner.invoke(app, ["doctor", "--endpoint", "http://127.0.0.1:9/v1"], env={"COLUMNS": "250"})
    assert told.exit_code == 1
    assert "endpoint" in told.output and "instruct.endpoint.base_url" in told.output
    for what in ("cores", "disk", "GPU", "faiss", "Ray", "Prefect", "torchvision"):
        assert what in told.output


def test_a_full_disk_fails_with_status_1_and_one_line(tmp_path: Path, world: Path) -> None:
    """A limit on file size stands for the full disk: both come as an OSError of the same call."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    command = [sys.executable, "-c", _WRITE, str(tmp_path / "out")]
    ran = subprocess.run(command, preexec_fn=limit, cwd=ROOT, capture_output=True, text=True, check=False,
                         env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert ran.returncode == 1, ran.stderr
    assert "cannot write" in ran.stdout and "free some room" in ran.stdout
    assert list(tmp_path.iterdir()) == []


_WRITE = """
import sys
from pathlib import Path
from schemas.errors import SluiceError
from stages.run_folder import write_atomically
try:
    write_atomically(Path(sys.argv[1]), bytes(1000))
except SluiceError as error:
    print(error)
    sys.exit(error.exit_status)
"""


def test_a_run_folder_that_cannot_be_made_is_refused(tmp_path: Path, world: Path) -> None:
    (tmp_path / "file").write_text("")
    told = runner.invoke(
        app,
        ["run", str(_recipe(tmp_path, table=str(world / "urls.parquet"))), "--run-dir", str(tmp_path / "file" / "r")],
    )
    assert told.exit_code == 1 and "cannot write" in told.output
    recipe = str(_recipe(tmp_path, table=str(world / "urls.parquet")))
    told = runner.invoke(app, ["run", recipe, "--run-dir", "nosuch://bucket/run"])
    assert told.exit_code == 2 and "nosuch://bucket/run cannot be opened" in told.output


def test_a_store_without_credentials_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    S3FileSystem.clear_instance_cache()  # one that an earlier test left here would have its credentials
    told = runner.invoke(app, ["status", "s3://bucket/run"])
    assert told.exit_code == 1 and "Unable to locate credentials" in told.output
