"""Scores of held-out questions, beside blind baselines."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.full import build_model
from schemas.errors import InputError
from stages.evaluate import (
    EvaluateSettings,
    Question,
    derange,
    evaluate,
    evaluate_run,
    held_out_questions,
    majority_answers,
    normalize,
    score,
    step_results,
)
from stages.feed import PackReader, write_plan
from stages.train.settings import TrainStep
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import COLOURS, FEED, feed_all, make_model, make_run

STEP = TrainStep(
    name="both",
    learn={"connector": 3e-3, "language": 3e-3},
    kinds=["template"],
    max_steps=2,
    packs_per_step=2,
    precision="fp32",
)


# Kinds of the miniature, which no recipe could name.
SETTINGS = EvaluateSettings(resamples=200).model_copy(update={"kinds": ["colour", "red"]})


def questions(number):
    return [Question(f"s{n}", "count" if n % 2 else "presence", "?", "yes") for n in range(number)]


def answers(right, number, seed):
    marks = np.random.default_rng(seed).random(number) < right
    return ["Yes." if mark else "no" for mark in marks]


def test_answers_are_compared_without_case_spaces_and_final_stops():
    assert normalize("  Top \n left. ") == "top left"
    assert normalize("2") != normalize("12")


def test_the_interval_holds_the_true_margin_and_narrows_with_questions():
    widths = []
    for number in (200, 5000):
        given = {
            "model": answers(0.8, number, 1),
            "majority": answers(0.5, number, 2),
            "blank": answers(0.3, number, 3),
        }
        result = score(questions(number), given, 1000, 0)
        low, high = result["interval"]
        assert result["best_baseline"] == "majority"
        assert low < 0.3 < high
        assert low < result["margin"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 3


def test_a_blind_model_has_no_margin():
    given = {"model": answers(0.5, 1000, 1), "majority": answers(0.5, 1000, 2)}
    low, high = score(questions(1000), given, 1000, 0)["interval"]
    assert low < 0 < high + 0.02


def test_accuracy_by_kind_adds_up():
    given = {"model": answers(0.7, 301, 1), "majority": answers(0.2, 301, 2)}
    result = score(questions(301), given, 100, 0)
    total = sum(kind["questions"] * kind["accuracy"]["model"] for kind in result["kinds"].values())
    assert total / 301 == pytest.approx(result["accuracy"]["model"])


def test_each_kind_is_held_against_its_own_best_baseline():
    given = {
        "model": ["yes"] * 100,
        "majority": ["no" if n % 2 else "yes" for n in range(100)],  # right on presence alone
        "blank": ["yes" if n % 4 == 1 else "no" for n in range(100)],  # right on half of count
    }
    result = score(questions(100), given, 300, 0)
    assert result["best_baseline"] == "majority"
    count, presence = result["kinds"]["count"], result["kinds"]["presence"]
    assert (count["best_baseline"], count["margin"]) == ("blank", 0.5)
    assert 0 < count["interval"][0] < 0.5 < count["interval"][1] < 1
    assert (presence["best_baseline"], presence["margin"], presence["interval"]) == ("majority", 0, [0, 0])


def test_majority_is_counted_by_kind_on_normalized_answers():
    turns = [("count", "2"), ("count", "2."), ("count", "3"), ("presence", "Yes"), ("presence", "no")]
    assert majority_answers(turns) == {"count": "2", "presence": "no"}


def test_no_picture_stays_with_its_question():
    items = [f"s{n}" for n in range(9)]
    other = derange(items, 4)
    assert sorted(other) == sorted(other.values()) == items
    assert all(key != value for key, value in other.items())
    with pytest.raises(InputError, match="holdout"):
        derange(["one", "one"], 0)


class Recipe:
    """What evaluation reads of a recipe."""

    def __init__(self, model, settings, steps=(STEP,)):
        self.seed, self.model, self.train, self.evaluate = 1, model, list(steps), settings


def colour_of(picture):
    mean = np.asarray(picture, float).mean((0, 1))
    return min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())


def test_one_that_sees_is_right_and_the_same_one_without_its_picture_is_not(tmp_path):
    model, run = make_model(tmp_path / "tokenizer"), make_run(tmp_path / "run", parts=4)
    feed_all(run, model)

    def ask(questions, pictures):
        names = [colour_of(picture) for picture in pictures]
        return [
            f"{name}." if question == "Which colour?" else "Yes" if name == "red" else "No"
            for question, name in zip(questions, names, strict=True)
        ]

    result = evaluate(run, ask, SETTINGS, seed=1)
    accuracy = result["accuracy"]
    assert result["questions"] == 16
    assert accuracy["model"] == 1
    assert all(example["right"] for example in result["examples"])
    assert result["majority"]["red"] == "no"
    assert result["kinds"]["colour"]["accuracy"]["shuffled"] <= 0.5
    assert max(accuracy["blank"], accuracy["shuffled"], accuracy["majority"]) < 1
    again = evaluate(run, ask, SETTINGS.model_copy(update={"questions": 5}), seed=1)
    assert again["questions"] == 5


def test_the_trained_model_is_asked_once(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    model, run = make_model(tmp_path / "tokenizer"), make_run(tmp_path / "run")
    feed_all(run, model)
    write_plan(run, STEP, FEED, seed=1)
    StepWork(run, model, [STEP], 1).train()
    settings = SETTINGS
    counts = evaluate_run(run, Recipe(model, settings))
    result = json.loads(run.path("eval.json").read_text())
    assert counts["questions"] == result["questions"] == len(result["examples"]) == 8
    assert counts["margin"] == pytest.approx(counts["model"] - counts[counts["best_baseline"]])
    assert counts["interval_low"] <= counts["margin"] <= counts["interval_high"]
    assert set(result["accuracy"]) == {"model", "majority", "blank", "shuffled"}
    held_out = set(PackReader(run, ["val"]).sample_ids)
    assert {example["sample_id"] for example in result["examples"]} <= held_out

    monkeypatch.setattr("stages.evaluate.evaluate", None)  # asking again would fail
    assert evaluate_run(run, Recipe(model, settings)) == counts


def test_every_step_can_be_asked(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    model, run = make_model(tmp_path / "tokenizer"), make_run(tmp_path / "run")
    feed_all(run, model)
    steps = [STEP.model_copy(update={"name": "all", "learn": {"connector": 1e-3}}), STEP]
    for number, step in enumerate(steps):
        write_plan(run, step, FEED, seed=1)
        StepWork(run, model, steps[: number + 1], 1).train()
    last = Recipe(model, SETTINGS, steps)
    every = Recipe(model, SETTINGS.model_copy(update={"every_step": True}), steps)
    counts = evaluate_run(run, last)
    assert not run.path("eval").exists() and step_results(run, last) == {}
    told = []
    monkeypatch.setattr("stages.evaluate.build_model", lambda *a, **k: told.append(a) or build_model(*a, **k))
    assert evaluate_run(run, every) == counts
    assert len(told) == 1  # the last step had been asked
    results = step_results(run, every)
    assert list(results) == ["all", "both"]
    assert results["all"] == json.loads(run.path("eval", "all.json").read_text())
    assert results["both"] == json.loads(run.path("eval.json").read_text())
    assert results["all"]["accuracy"].keys() == {"model", "majority", "blank", "shuffled"}
    assert "interval" in results["all"]


def test_a_kind_that_nobody_was_asked_is_named(tmp_path):
    run = make_run(tmp_path)
    feed_all(run, None)
    with pytest.raises(InputError, match=r"evaluate.kinds: no held-out question of the kinds poem"):
        held_out_questions(PackReader(run, ["val"]), ["poem"], 10, 0)


def test_only_kinds_with_exact_answers_can_be_asked():
    kinds = ["attribute", "count", "position", "presence", "read", "region", "relation", "chart", "clock", "document"]
    assert EvaluateSettings().kinds == kinds
    with pytest.raises(ValidationError, match="'caption' has no exact answers; kinds that have: attribute, count"):
        EvaluateSettings(kinds=["caption"])
