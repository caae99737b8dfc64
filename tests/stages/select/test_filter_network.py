"""A filter network of one's own: training on trusted pairs, its weights as those that score, and what redoes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models.compat  # noqa: F401

# isort: split
import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.clip import load_clip, save_clip
from pipelines.filter_network import filter_recipe, held_out_auroc
from pipelines.recipe import Recipe, parse_recipe
from schemas.errors import InputError, SluiceError
from stages.acquire import acquire_place
from stages.embed import EmbedWork
from stages.feed import ShardWork, write_plan
from stages.run_folder import RunFolder
from stages.select import write_decisions
from stages.select.filter_network import auroc, filter_run, scoring_clip
from stages.source import write_parts
from stages.train.work import StepWork

#: A CLIP that trains in no time.
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COLOURS = {"red": (210, 30, 30), "green": (30, 170, 40), "blue": (40, 50, 210), "white": (250, 250, 250)}


def pictures(folder: Path, captions: list[str], shades: int = 0) -> Path:
    """A table of pictures of one colour each, and its caption (of a colour's name, or anything)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(len(captions)):
        colour = list(COLOURS.values())[number % len(COLOURS)]
        shade = tuple(min(255, value + number + shades) for value in colour)
        Image.new("RGB", (64, 64), shade).save(folder / f"{number}.png")
    table = pa.table({"url": [f"{number}.png" for number in range(len(captions))], "caption": captions})
    pq.write_table(table, folder / "pairs.parquet")
    return folder / "pairs.parquet"


def source(table: Path) -> dict[str, Any]:
    return {"table": str(table), "pictures": str(table.parent), "rows_per_part": 30}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("models") / "sluice-test-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    train = {"rate": 1e-2, "epochs": 12, "batch": 20, "holdout": 0.2}
    return make_recipe(tmp_path, {"model": "sluice-test-tiny", "pretrained": "none"}, train)


def make_recipe(folder: Path, clip: dict[str, Any], train: dict[str, Any]) -> Recipe:
    """Scores 8 pairs with a network that is trained on 40. Rules would drop some of those for their captions."""
    names = [f"a {name} field" for name in COLOURS]
    trusted = pictures(folder / "trusted", [*names * 9, "image", "IMG_1.jpg", "a red field", "42"])
    web = pictures(folder / "web", names * 2, shades=3)
    train = {"source": source(trusted), **train}
    return parse_recipe({
        "name": "outer", "source": source(web), "acquire": {"size": 64}, "select": {"clip": {**clip, "train": train}},
    }, "test")  # fmt: skip


def run_kernels(run: RunFolder, recipe: Recipe) -> list[str]:
    """The stages that lead to training, and training itself, without Ray; returns what had to be done."""
    write_parts(run, recipe.source)
    works = [acquire_place(run, recipe.acquire, False, recipe.source).make(), EmbedWork(run, recipe.select.clip, "cpu")]
    did = [f"{work.stage} {part}" for part in run.parts() for work in works if not work.done(part)]
    for part in run.parts():
        for work in works:
            work.process(part)
    write_decisions(run, recipe.select, recipe.feed.holdout, recipe.seed)
    feed = ShardWork(run, recipe.feed, None)
    for part in run.parts():
        feed.process(part)
    step = StepWork(run, None, recipe.train, recipe.seed)
    write_plan(run, recipe.train[0], recipe.feed, recipe.seed)
    if not step.done():
        did.append("train")
        step.train()
    return did


def test_from_trusted_pairs_to_scores(recipe: Recipe, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(SluiceError, match="the filter network is not trained yet"):
        scoring_clip(run, recipe.select.clip)

    inner = filter_run(run)
    assert run_kernels(inner, filter_recipe(recipe)) == ["acquire 0", "embed 0", "acquire 1", "embed 1", "train"]
    assert pq.read_table(inner.path("decisions.parquet"))["state"].to_pylist() == ["kept"] * 40
    assert run_kernels(inner, filter_recipe(recipe)) == []

    clip = scoring_clip(run, recipe.select.clip)
    assert clip.pretrained == str(run.path("filter/checkpoints/contrast/final.safetensors"))
    network = load_clip(clip.model, clip.pretrained)
    trained = held_out_auroc(inner, network)
    untrained = held_out_auroc(inner, load_clip(clip.model, "none"))
    assert trained is not None and untrained is not None and trained > untrained + 0.1

    write_parts(run, recipe.source)
    acquire_place(run, recipe.acquire, False, recipe.source).make().process(0)
    EmbedWork(run, clip, "cpu").process(0)
    found = run.read_table("vectors").combine_chunks()
    seen = np.array(found["vector"].to_pylist(), np.float32)
    stored = run.read_table("samples", None, ["caption"])["caption"].to_pylist()
    np.testing.assert_allclose((seen * network.encode_texts(stored)).sum(1), found["clip_score"].to_numpy(), atol=2e-3)


def test_other_trusted_pairs_train_again_and_score_again(recipe: Recipe, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run_kernels(filter_run(run), filter_recipe(recipe))
    write_parts(run, recipe.source)
    acquire_place(run, recipe.acquire, False, recipe.source).make().process(0)
    EmbedWork(run, scoring_clip(run, recipe.select.clip), "cpu").process(0)
    assert EmbedWork(run, scoring_clip(run, recipe.select.clip), "cpu").done(0)

    table = pq.read_table(tmp_path / "trusted" / "pairs.parquet")
    pq.write_table(table.slice(0, 30), tmp_path / "trusted" / "pairs.parquet")
    assert "train" in run_kernels(filter_run(run), filter_recipe(recipe))
    assert not EmbedWork(run, scoring_clip(run, recipe.select.clip), "cpu").done(0)


def test_the_run_may_move_and_its_scores_stay(recipe: Recipe, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run_kernels(filter_run(run), filter_recipe(recipe))
    key = EmbedWork(run, scoring_clip(run, recipe.select.clip), "cpu").settings()
    run.root.rename(tmp_path / "moved")
    moved = RunFolder(tmp_path / "moved")
    assert EmbedWork(moved, scoring_clip(moved, recipe.select.clip), "cpu").settings() == key


def test_training_begins_with_the_named_weights_and_the_recipes_own_picture_form(recipe: Recipe) -> None:
    clip = recipe.select.clip.model_copy(update={"resize_mode": "longest"})
    inner = filter_recipe(recipe.model_copy(update={"select": recipe.select.model_copy(update={"clip": clip})}))
    step = inner.train[0]
    assert (step.objective, step.model, step.pretrained, step.resize_mode) == (
        "contrastive", "sluice-test-tiny", "none", "longest",
    )  # fmt: skip
    assert (step.learn, step.batch, step.epochs) == ({"clip": 1e-2}, 20, 12)
    assert inner.acquire == recipe.acquire and inner.select.clip.train is None


def test_weights_say_how_their_model_is_built(tmp_path: Path) -> None:
    other = json.dumps({**TINY, "quick_gelu": True})
    (tmp_path / "sluice-test-quick.json").write_text(other)
    open_clip.add_model_config(tmp_path / "sluice-test-quick.json")
    trained = load_clip("sluice-test-quick", "none", resize_mode="longest")
    save_clip(trained, tmp_path / "weights.safetensors")
    again = load_clip("sluice-test-tiny", str(tmp_path / "weights.safetensors"))
    assert again.model.visual.preprocess_cfg["resize_mode"] == "longest"
    assert load_clip("sluice-test-tiny", "none").model.visual.preprocess_cfg["resize_mode"] == "shortest"
    wide = [Image.linear_gradient("L").resize((40, 20))]
    for model, exact in ((again, True), (load_clip("sluice-test-tiny", "none"), False)):
        assert np.allclose(model.encode_pictures(wide), trained.encode_pictures(wide), atol=2e-3) == exact


@pytest.mark.parametrize(
    ("train", "model", "message"),
    [
        ({"rate": 1e-3}, "sluice-filter-64", "key 'select.clip.train.source' is missing"),
        ({"source": {}, "rate": 1e-3}, "sluice-filter-64", "key 'select.clip.train.source.table' is missing"),
        ({"source": {"table": "a.parquet"}}, "sluice-filter-64", "key 'select.clip.train.rate' is missing"),
        ({"source": {"table": "a.parquet"}, "rate": 0}, "sluice-filter-64", "select.clip.train.rate"),
        ({"source": {"table": "a.parquet"}, "rate": 1, "epoch": 2}, "sluice-filter-64", "did you mean 'epochs'"),
        ({"source": {"table": "a.parquet"}, "rate": 1e-3}, "local-dir:x", "brings its own weights cannot be trained"),
    ],
)
def test_what_is_wrong_is_said_before_work_begins(train: dict[str, Any], model: str, message: str) -> None:
    data = {"name": "a", "source": {"table": "b.parquet"}, "select": {"clip": {"model": model, "train": train}}}
    with pytest.raises(InputError, match=message):
        parse_recipe(data, "test")


def test_auroc_counts_pairs_and_halves_ties() -> None:
    right, wrong = np.array([0.9, 0.5, 0.4]), np.array([0.5, 0.1])
    assert auroc(right, wrong) == pytest.approx((2 + 1.5 + 1) / 6)
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(1, 1, 400).round(1), rng.normal(0, 1, 300).round(1)
    pairs = right[:, None] - wrong
    assert auroc(right, wrong) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())
    assert auroc(np.ones(3), np.ones(4)) == 0.5


def test_too_few_held_out_pairs_are_not_measured(recipe: Recipe, tmp_path: Path) -> None:
    inner = filter_recipe(recipe)
    run = filter_run(RunFolder(tmp_path / "run"))
    few = inner.model_copy(update={"feed": inner.feed.model_copy(update={"holdout": 0.0})})
    run_kernels(run, few)
    assert held_out_auroc(run, load_clip("sluice-test-tiny", "none")) is None
    assert json.loads(run.path("select.json").read_text())["splits"]["val"] == 0
