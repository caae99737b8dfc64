"""Rendered pictures: answers agree with what was drawn, bytes with the seed, and the folder is a source."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from schemas.errors import InputError
from stages.render import clock, find_renderer, renderer_names
from stages.render.write import draw_one, render
from tests.stages.source.data import read

Truth = dict[str, Any]
SORTS = {"clock": 60, "chart": 45, "document": 40}
#: Lists of words that are no questions.
NAMES = {"subjects", "groups", "times", "shops", "people", "items", "places", "events", "sentences", "months"}


@pytest.fixture(scope="module")
def records() -> list[Truth]:
    return [draw_one((name, number, 7))[0] for name, most in SORTS.items() for number in range(most)]


PHRASINGS = {
    name: {form: texts for form, texts in find_renderer(name)().words.items() if form not in NAMES} for name in SORTS
}


def asked(name: str, question: str) -> tuple[str, dict[str, str]]:
    """The form of a question and the words that it names, from the text alone."""
    found = []
    for form, texts in PHRASINGS[name].items():
        for text in texts:
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(text))
            if match := re.fullmatch(pattern, question):
                found.append((form, match.groupdict()))
    assert len({form for form, _ in found}) == 1, (question, found)
    # "How much is charged for {item}?" is more exact than "How much is {item}?".
    return min(found, key=lambda one: sum(map(len, one[1].values())))


def money(text: str) -> float:
    return round(100 * float(text[1:]))


def expected(name: str, form: str, named: dict[str, str], truth: Truth) -> str:
    """The answer, worked out once more from the truth."""
    if name == "clock":
        shown = np.datetime64("2000-01-01T00:00") + np.timedelta64(truth["hour"] * 60 + truth["minute"], "m")
        shown += np.timedelta64(int(named.get("minutes", 0)), "m")
        hours, minutes = str(shown)[11:].split(":")
        time = f"{int(hours) % 12 or 12}:{minutes}"
        return {"time": time, "later": time, "hour": str(int(hours) % 12 or 12), "minute": str(int(minutes)),
                "second": str(truth["second"])}[form]  # fmt: skip
    if form == "title":
        return truth["title"]
    if truth["form"] == "table":
        table = {row: dict(zip(truth["columns"], cells, strict=True))
                 for row, cells in zip(truth["rows"], truth["cells"], strict=True)}  # fmt: skip
        if form == "cell":
            return str(table[named["row"]][named["column"]])
        return sorted(table, key=lambda row: table[row][named["column"]])[-1]
    if name == "chart":
        values = dict(zip(truth["labels"], truth["values"], strict=True))
        ordered = sorted(values, key=values.__getitem__)
        if form in ("largest", "smallest"):
            return ordered[-1 if form == "largest" else 0]
        if form in ("value", "share"):
            return f"{values[named['label']]}{'%' if form == 'share' else ''}"
        if form == "number":
            return str(len(values))
        one, other = values[named["one"]], values[named["other"]]
        if form == "trend":
            assert truth["labels"].index(named["one"]) < truth["labels"].index(named["other"])
            return "rise" if one < other else "fall"
        return str(one + other if form == "sum" else max(one, other) - min(one, other))
    if form == "line":
        return truth["lines"][int(named["line"]) - 1]
    if form in ("amount", "dearest", "total", "items_number"):
        amounts = dict(zip(truth["items"], truth["amounts"], strict=True))
        total = sum(map(money, amounts.values()))
        return {
            "amount": amounts.get(named.get("item", ""), ""),
            "dearest": max(amounts, key=lambda item: money(amounts[item])),
            "total": f"{truth['total'][0]}{total / 100:.2f}",
            "items_number": str(len(amounts)),
        }[form]
    return truth[form]


def test_answers_agree_with_what_was_drawn(records: list[Truth]) -> None:
    seen: Counter[tuple[str, str]] = Counter()
    for record in records:
        name = record["id"].split("-")[0]
        said = record["conversations"]
        assert 2 <= len(said) / 2 <= 4 and {turn["kind"] for turn in said[1::2]} == {name}
        for question, answer in zip(said[0::2], said[1::2], strict=True):
            form, named = asked(name, question["value"].removeprefix("<image>\n"))
            assert answer["value"] == expected(name, form, named, record["truth"])
            seen[name, form] += 1
    assert {(name, form) for name, forms in PHRASINGS.items() for form in forms} == set(seen)


def test_every_form_of_question_has_twelve_phrasings_or_more() -> None:
    for name in renderer_names():
        for form, texts in PHRASINGS[name].items():
            assert len(set(texts)) == len(texts) >= 12, (name, form)


def test_charts_can_be_read_and_shares_add_up(records: list[Truth]) -> None:
    truths = [record["truth"] for record in records if record["id"].startswith("chart")]
    assert {truth["form"] for truth in truths} == {"bar", "line", "pie", "table"}
    for truth in truths:
        if truth["form"] != "table":
            assert len(set(truth["labels"])) == len(truth["labels"]) == len(set(truth["values"]))
        if truth["form"] == "pie":
            assert sum(truth["values"]) == 100


def test_the_hands_of_a_clock_are_where_the_time_puts_them() -> None:
    """Only on the minute's ray are there dark pixels beyond the reach of the hour hand."""
    centre, rng = (100.0, 100.0), random.Random(3)
    for _ in range(20):
        hour, minute = rng.randint(1, 12), rng.randrange(60)
        picture = Image.new("L", (200, 200), 255)
        clock._hand(pen := ImageDraw.Draw(picture), centre, (hour + minute / 60) / 12, 45, 5, "black")
        clock._hand(pen, centre, minute / 60, 80, 3, "black")
        ends = [clock._at(centre, turn / 60, 70) for turn in range(60)]
        dark = [turn for turn, (x, y) in enumerate(ends) if picture.getpixel((round(x), round(y))) == 0]
        assert dark == [minute]
        x, y = clock._at(centre, (hour * 60 + minute) / 720, 35)
        assert picture.getpixel((round(x), round(y))) == 0


def test_the_same_seed_gives_the_same_bytes_in_any_number_of_processes(tmp_path: Path) -> None:
    for name, processes, clocks in (("one", 1, 24), ("two", 2, 24), ("more", 1, 30)):
        render(tmp_path / name, {"clock": clocks, "chart": 2, "document": 2}, seed=5, processes=processes)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one/pictures").iterdir()}
    assert len(files) == 28
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "two/pictures").iterdir()}
    first, second = ((tmp_path / name / "conversations.json").read_bytes() for name in ("one", "two"))
    assert first == second
    assert all((tmp_path / "more/pictures" / name).read_bytes() == data for name, data in files.items())
    assert draw_one(("clock", 0, 6))[1] != files["clock-000000.jpg"]


def test_the_folder_is_a_source_whose_turns_have_their_kind(tmp_path: Path) -> None:
    assert render(tmp_path, {"clock": 2, "document": 1}, seed=1, processes=1) == 3
    rows = read(tmp_path / "conversations.json", pictures=str(tmp_path / "pictures"))
    assert all(row["reason"] is None and Path(row["picture_file"]).exists() for row in rows)
    assert rows[0]["caption"].startswith("a clock that shows ")
    assert {turn.get("kind") for turn in json.loads(rows[2]["conversation"])} == {None, "document"}


def test_an_unknown_sort_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rendered picture 'map'; known: chart, clock, document"):
        render(tmp_path, {"map": 1}, seed=1)
