"""The threshold on the score: for all, by language, by source."""

import numpy as np
import pyarrow as pa
import pytest

from stages.select.candidates import Candidates
from stages.select.score import ask_clip, groups, histogram, threshold
from stages.select.settings import KeepSettings


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


def _rows(urls: list[str], captions: list[str], scores: list[float | None]) -> Candidates:
    ids = [f"{row:032x}" for row in range(len(urls))]
    text = {"sample_id": ids, "url": urls, "caption": captions, "reason": [None] * len(ids)}
    samples = pa.table({name: pa.array(values, pa.string()) for name, values in text.items()})
    samples = samples.append_column("row", pa.array(range(len(ids)), pa.int64()))
    rows = Candidates.of(
        samples, {"": pa.table({"sample_id": samples["sample_id"], "clip_score": pa.array(scores, pa.float32())})}
    )
    rows.measure("clip_score", rows.scores())
    return rows


def test_each_source_keeps_its_own_best() -> None:
    urls = [
        "http://a.org/1",
        "https://a.org:80/2",
        "http://b.org/1",
        "http://b.org/2",
        "http://b.org/3",
        "http://b.org/4",
    ]
    rows = _rows(urls, ["c"] * 6, [0.1, 0.2, 0.5, 0.6, 0.7, None])
    ask_clip(rows, KeepSettings(top=0.5, by="source"))
    assert rows.verdicts.reason.tolist() == ["clip_score", None, "clip_score", None, None, None]
    (asked,) = rows.thresholds
    assert (asked.name, asked.measure, asked.value, asked.dropped) == ("clip.keep.top", "clip_score_margin", 0.0, 2)
    assert asked.groups == pytest.approx({"a.org": 0.2, "b.org": 0.6})
    margin = rows.measures["clip_score_margin"]
    assert margin[:5] == pytest.approx([-0.1, 0, -0.1, 0, 0.1], abs=1e-6)


def test_each_language_keeps_its_own_best() -> None:
    german = ["Der Hund sitzt auf dem Tisch", "Die Katze liegt unter dem Stuhl"]
    english = ["the dog sits on the table", "the cat lies under the chair"]
    rows = _rows(["u"] * 4, german + english, [0.1, 0.2, 0.3, 0.4])
    ask_clip(rows, KeepSettings(top=0.5, by="language"))
    assert rows.verdicts.reason.tolist() == ["clip_score", None, "clip_score", None]
    assert rows.thresholds[0].groups == pytest.approx({"de": 0.2, "en": 0.4})


def test_the_source_of_a_picture_that_is_not_downloaded_is_its_folder() -> None:
    urls = ["cats/1.jpg", "dogs/small/1.jpg", "1.jpg", "http://[x/1.jpg", None, "http://A.org/1.jpg"]
    group, names = groups(pa.table({"url": pa.array(urls, pa.string())}), "source")
    assert [names[number] for number in group] == ["cats", "dogs/small", "none", "none", "none", "a.org"]


def test_where_nothing_is_asked_or_nothing_has_a_score_nothing_is_dropped() -> None:
    rows = _rows(["http://a/1", "http://b/1"], ["c", "d"], [None, None])
    ask_clip(rows, None)
    ask_clip(rows, KeepSettings(top=0.5))
    ask_clip(rows, KeepSettings(top=0.5, by="source"))
    assert rows.alive().all()
    ask_clip(_rows([], [], []), KeepSettings(top=0.5, by="language"))
