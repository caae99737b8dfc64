"""Scores of held-out questions, beside blind baselines."""

import numpy as np
import pytest

from schemas.errors import InputError
from stages.evaluate import Question, derange, majority_answers, normalize, score


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
