"""`select.clip.train` on a real Ray: from trusted pairs to scores in one run, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ray

from models.clip import load_clip
from pipelines.line import Line, acquire, filter_network, source
from pipelines.recipe import load_recipe
from stages.run_folder import RunFolder
from stages.select.filter_network import scoring_clip
from stages.tar import read_members
from tests.stages.select.test_filter_network import make_recipe

TRAIN = {"rate": 1e-3, "epochs": 2, "batch": 20, "holdout": 0.2}


@pytest.mark.slow
def test_one_recipe_goes_from_trusted_pairs_to_scores(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, {}, TRAIN)
    run = RunFolder(tmp_path / "run")
    line = Line(recipe, run)
    try:
        source(line)
        counts = filter_network(line)
        acquire(line)
        before = {path: path.stat().st_mtime_ns for path in run.path("filter").rglob("*.json")}
        assert filter_network(Line(recipe, run)) == counts
    finally:
        ray.shutdown()
    assert before == {path: path.stat().st_mtime_ns for path in run.path("filter").rglob("*.json")}
    assert counts["pairs"] + counts["held_out"] == 40 and counts["held_out"] > 1
    assert counts == json.loads(run.path("filter.json").read_text())
    assert 0 <= counts["auroc_before"] <= 1 and 0 <= counts["auroc_after"] <= 1
    assert load_recipe(run.path("filter/recipe.yaml")).train[0].name == "contrast"

    clip = scoring_clip(run, recipe.select.clip)
    network = load_clip(clip.model, clip.pretrained)
    samples, vectors = run.read_table("samples"), run.read_table("vectors")
    stored = dict(read_members(run.path("samples/00000.tar"), "jpg"))
    seen = network.encode_pictures([stored[key] for key in samples["key"].to_pylist()])
    said = network.encode_texts(samples["caption"].to_pylist())
    assert vectors["sample_id"].to_pylist() == samples["sample_id"].to_pylist()
    assert vectors["clip_score"].to_pylist() == pytest.approx((seen * said).sum(1).tolist(), abs=1e-4)
