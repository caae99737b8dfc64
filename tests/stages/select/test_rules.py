"""Rules, and the threshold on the score."""

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from schemas.settings import explain
from stages.select.rules import RuleSettings, apply_rules
from stages.select.score import histogram, threshold
from stages.select.settings import KeepSettings, SelectSettings


def _samples(*rows: tuple[str | None, int | None, int | None]) -> pa.Table:
    caption, width, height = zip(*rows, strict=True)
    return pa.table({"caption": pa.array(caption, pa.string()), "original_width": pa.array(width, pa.int32()), "original_height": pa.array(height, pa.int32())})  # fmt: skip # noqa: E501


def test_each_rule_drops_with_its_own_reason_and_the_first_one_counts() -> None:
    samples = _samples(
        ("a cat on a mat", 64, 64),
        ("a cat on a mat", 63, 200),
        ("a cat on a mat", 64, 193),
        ("cat", 64, 192),
        ("one two three four five six", 64, 64),
        ("IMG_1.jpg", 10, 10),
        (None, None, None),
    )
    settings = RuleSettings(min_side_px=64, max_aspect=3, min_caption_words=2, max_caption_words=5, boilerplate=True)
    assert apply_rules(samples, settings).to_pylist() == [
        None, "picture_too_small", "aspect_ratio", "caption_short", "caption_long", "picture_too_small", None,
    ]  # fmt: skip
    assert apply_rules(samples, RuleSettings()).null_count == 7


@pytest.mark.parametrize(
    "caption",
    ["IMG_1234.jpg", "DSC0042.JPG", "IMG_1234", "P1010001", "image", "Photo 1234", "a picture", "untitled",
     "stock photo",
     "https://example.com/12", "www.example.com", "4711", "12 / 2024", "thumbnail", "Screenshot 77", "image 3 of 10",
     "photo (2)", "Screenshot 2024-01-02", "cat.jpeg", "Featured image", "no caption", "Untitled-1", "N/A",
     "Click here to enlarge", "  image  "],
)  # fmt: skip
def test_boilerplate(caption: str) -> None:
    (reason,) = apply_rules(_samples((caption, 9, 9)), RuleSettings(boilerplate=True)).to_pylist()
    assert reason == "caption_boilerplate"


@pytest.mark.parametrize(
    "caption",
    ["a dog and two cats", "image of a dog", "photo album on a table", "cat", "3 cats", "stock photo of a red car",
     "Picture frame", "猫", "image 猫", "a logo of a bear", "https and http explained",
     "the default setting of a camera", "Icon park"],
)  # fmt: skip
def test_captions_that_say_something_pass(caption: str) -> None:
    assert apply_rules(_samples((caption, 9, 9)), RuleSettings(boilerplate=True)).to_pylist() == [None]


def test_thresholds() -> None:
    scores = np.array([0.1, 0.4, 0.2, 0.3, 0.4, 0.0, 0.5, 0.6, 0.7, 0.8], np.float32)
    assert threshold(scores, KeepSettings(min=0.25)) == 0.25
    assert (scores >= threshold(scores, KeepSettings(top=0.3))).sum() == 3
    assert (scores >= threshold(scores, KeepSettings(top=0.25))).sum() == 3
    assert (scores >= threshold(scores, KeepSettings(top=0.45))).sum() == 6  # ties stay together
    assert (scores >= threshold(scores, KeepSettings(top=1))).all()
    assert threshold(scores, None) is None
    assert threshold(scores[:0], KeepSettings(top=0.3)) is None


def test_the_histogram_counts_every_score() -> None:
    scores = np.array([-0.031, 0.02, 0.02, 0.3, 0.349], np.float32)
    bins = histogram(scores)
    assert len(bins["edges"]) == len(bins["counts"]) + 1
    assert sum(bins["counts"]) == 5
    assert bins["edges"][0] <= -0.031
    assert bins["edges"][-1] >= 0.349
    assert sum(histogram(np.full(3, 0.2, np.float32))["counts"]) == 3
    assert histogram(scores[:0]) == {"edges": [], "counts": []}


def test_settings_refuse_what_is_not_there() -> None:
    for wrong, message in [
        ({"rules": {"min_side": 3}}, "unknown key 'rules.min_side'; did you mean 'min_side_px'"),
        ({"clip": {"keep": {"min": 0.1, "top": 0.2}}}, "give either 'min'"),
        ({"dedup": {"semantic": {"min_cosine": 2}}}, "dedup.semantic.min_cosine"),
    ]:
        with pytest.raises(ValidationError) as caught:
            SelectSettings.model_validate(wrong)
        assert message in str(explain(caught.value, SelectSettings, "recipe.yaml"))
