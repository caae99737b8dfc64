"""Which recipes can stream, and that all stages of one find room beside training."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.line import stages_until
from pipelines.recipe import Recipe, parse_recipe
from pipelines.stream import check_staged, check_streams, fitted
from schemas.errors import InputError
from stages.graph import Place

STEP = {"name": "align", "learn": {"connector": 1e-3}, "schedule": "constant", "warmup_steps": 10}


def _recipe(step: dict[str, Any] | None = None, **sections: Any) -> Recipe:
    language = {"config": {"model_type": "llama"}, "tokenizer": "t"}
    data = {
        "name": "a",
        "source": {"table": "a.parquet"},
        "model": {"language": language},
        "train": [STEP | (step or {})],
    }
    return parse_recipe(data | sections, "a.yaml")


@pytest.mark.parametrize(
    "recipe",
    [
        _recipe(),
        _recipe({"warmup_steps": None, "warmup_fraction": 0}),
        _recipe({"schedule": "cosine", "warmup_steps": None, "max_steps": 50, "epochs": 3}),
        _recipe({"learn": {"connector": {"rate": 1e-3, "warmup_steps": 5}}, "warmup_steps": None}),
        _recipe(feed={"shards": False}),
        _recipe(train=[STEP, {"name": "next", "learn": {"language": 1e-5}}]),
    ],
)
def test_a_step_whose_rates_need_no_number_of_steps_streams(recipe: Recipe) -> None:
    check_streams(recipe)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (_recipe({"schedule": "cosine"}), r"train.0 \(align\): its rates .* give max_steps, or schedule: constant"),
        (_recipe({"warmup_steps": None}), "give max_steps, or schedule: constant with warmup_steps"),
        (_recipe({"epochs": 0.5}), "epochs: 0.5 is a share of all"),
        (_recipe({"tokens": 1000}), "tokens is planned over all .* give max_steps"),
        (_recipe({"mixture": {"caption": 1.0}}), "mixture is planned over all .* give kinds"),
        (_recipe({"validate_every": 5}), "validate_every"),
        (_recipe({"epochs": 2}, feed={"shards": False}), "feed.shards: false: a second step or epoch"),
        (_recipe(train=[]), "the first step of this recipe is none"),
        (_recipe(train=[{"name": "c", "objective": "contrastive", "learn": {"clip": 1e-3}}]), "feeds a language step"),
        (_recipe(select={"clip": {"keep": {"top": 0.3}}}), r"select.clip.keep.top .*min: COSINE"),
    ],
)
def test_what_cannot_stream_is_refused_with_what_can(recipe: Recipe, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_streams(recipe)


def test_a_staged_run_trains_on_shards() -> None:
    check_staged(_recipe())
    with pytest.raises(InputError, match="feed.shards: false: only a stream trains without shards"):
        check_staged(_recipe(feed={"shards": False}))


def test_one_stage_stands_for_all_that_stream() -> None:
    names = [name for name, _ in stages_until(None, streams=True)]
    assert names == ["source", "filter", "stream", "ledger", "train", "evaluate", "export", "report"]
    assert [name for name, _ in stages_until("stream", streams=True)] == ["source", "filter", "stream", "ledger"]
    with pytest.raises(InputError, match="--until select: no such stage; stages: source, filter, stream"):
        stages_until("select", streams=True)


def test_all_stages_of_a_stream_find_room_beside_training() -> None:
    places = [Place(lambda: 1 / 0, num_cpus=0.5, actors=8), Place(lambda: 1 / 0, num_cpus=1, actors=3)]
    held = fitted(places, 4, 1.25)
    assert sum(place.num_cpus * place.actors for place in held) <= 4 - 1.25
    assert held[1].num_cpus == pytest.approx(2 * held[0].num_cpus, rel=1e-3)
    assert fitted(places, 64, 1.25) == places
    with pytest.raises(InputError, match="4 logical CPUs have no room .* holds 4.25"):
        fitted(places, 4, 4.25)
