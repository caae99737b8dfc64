"""`sluice train`: the training steps alone, on shards that lie there."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
from pathlib import Path

import pytest
import ray
import torch
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.recipe import load_recipe
from stages.feed import FeedSettings
from stages.run_folder import RunFolder
from stages.train.weights import final_file
from tests.stages.feed.tiny_run import feed_all, make_model, make_run

runner = CliRunner()


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and a run folder with its shards, but without a plan."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("train")
    model = make_model(folder / "tokenizer")
    recipe = {
        "name": "t",
        "source": {"table": "nowhere.parquet"},
        "feed": {"tokens_per_pack": 512},
        "model": model.model_dump(mode="json", exclude_none=True),
        "train": [{"name": "align", "learn": {"connector": 1e-3}, "packs_per_step": 2, "max_steps": 2}],
    }
    (folder / "t.yaml").write_text(yaml.safe_dump(recipe))
    feed_all(make_run(folder / "run"), model, FeedSettings(tokens_per_pack=512))
    return folder / "t.yaml", folder / "run"


def _train(*arguments: object) -> tuple[int, str]:
    told = runner.invoke(app, ["train", *map(str, arguments)], env={"COLUMNS": "400"})
    return told.exit_code, f"{told.output}{told.exception or ''}"


def test_without_the_recipe_s_shards_nothing_is_trained(fed: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, run = fed
    status, told = _train(recipe, "--run-dir", tmp_path / "none")
    assert status == 2 and "there are no shards; write them first, with this recipe: sluice run" in told
    status, told = _train(recipe, "--run-dir", run, "--set", "feed.tokens_per_pack=300")
    assert status == 2 and "2 of 2 parts are missing or were fed with other settings" in told
    assert "--until feed" in told
    status, told = _train(recipe, "--run-dir", run, "--set", "train=[]")
    assert status == 2 and "no training steps" in told
    assert not RunFolder(run).path("checkpoints").exists()


@pytest.mark.slow
def test_the_steps_alone_are_run_and_planned_anew(fed: tuple[Path, Path]) -> None:
    recipe, run = fed
    try:
        status, told = _train(recipe, "--run-dir", run)
        assert status == 0, told
        assert "align" in told and RunFolder(run).path(final_file("align")).exists()
        status, told = _train(recipe, "--run-dir", run, "--set", "train.0.epochs=2", "--set", "train.0.max_steps=3")
        assert status == 0, told
        assert (RunFolder(run).manifest("train", "align") or {})["counts"]["steps"] == 3
        assert load_recipe(RunFolder(run).path("recipe.yaml")).train[0].epochs == 2
    finally:
        ray.shutdown()
