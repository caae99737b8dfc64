"""What a context holds of rows as sources bring them, wrong ones among them."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.instruct.context import Context
from stages.instruct.kinds import TemplateKind, find_kind, kind_names


def _box(label: str | None, x: float | None = 10, y: float = 10, w: float = 30, h: float = 30) -> dict[str, Any]:
    return {"label": label, "x": x, "y": y, "w": w, "h": h}


def _row(
    boxes: Any, captions: Any = ("Two dogs.",), width: int | None = 100, height: int | None = 200
) -> dict[str, Any]:
    return {"sample_id": "a" * 32, "captions": captions, "boxes": boxes, "original_width": width,
            "original_height": height}  # fmt: skip


def _turns(context: Context, name: str) -> list[tuple[str, str]]:
    kind = find_kind(name)()
    assert isinstance(kind, TemplateKind)
    return [(turn.question, turn.answer) for turn in kind.turns_of([context], [random.Random(1)])[0]]


def test_corners_are_shares_of_the_original_sides() -> None:
    (box,) = Context.from_row(_row([_box("dog")])).boxes
    assert (box.x1, box.y1, box.x2, box.y2) == (0.1, 0.05, 0.4, 0.2)
    assert box.corners == "[0.100, 0.050, 0.400, 0.200]"


def test_a_box_is_cut_at_the_edges() -> None:
    (box,) = Context.from_row(_row([_box("dog", x=-10, w=30), ])).boxes  # fmt: skip
    assert (box.x1, box.x2) == (0.0, 0.2)


@pytest.mark.parametrize(
    "box",
    [_box("dog", x=100), _box("dog", x=-31), _box("dog", y=500), _box("dog", w=0), _box("dog", h=-3),
     _box("dog", w=0.1), _box("dog", x=math.nan), _box("dog", w=math.inf), _box("dog", x=None)],
)  # fmt: skip
def test_a_box_outside_or_of_no_area_is_neither_counted_nor_asked_for(box: dict[str, Any]) -> None:
    context = Context.from_row(_row([box, _box("cat")]))
    assert [each.label for each in context.boxes] == ["cat"] and context.hidden == ["dog"]
    said = {name: _turns(context, name) for name in kind_names() if issubclass(find_kind(name), TemplateKind)}
    assert not any("dog" in question for turns in said.values() for question, _ in turns)
    assert [answer for _, answer in said["count"]] == ["1"]  # of cats; how many objects there are is not known


def test_an_object_with_a_second_box_that_cannot_be_seen_is_not_counted() -> None:
    context = Context.from_row(_row([_box("dog"), _box("dog", x=100), _box("cat")]))
    assert context.clear_labels == ["cat"]


@pytest.mark.parametrize("label", [None, "", "  ", "???", "unknown", "N/A", "Unlabeled"])
def test_of_a_box_of_an_unknown_class_nothing_is_said(label: str | None) -> None:
    context = Context.from_row(_row([_box(label), _box("cat")]))
    assert context.unnamed == 1 and not context.complete
    assert [each.label for each in context.boxes] == ["cat"]
    assert _turns(context, "count") == []
    assert [answer for _, answer in _turns(context, "region")] == ["cat"]


@pytest.mark.parametrize(("width", "height"), [(None, 200), (100, None), (0, 200), (100, 0)])
def test_without_the_size_of_the_picture_no_box_is_used(width: int | None, height: int | None) -> None:
    context = Context.from_row(_row([_box("dog")], width=width, height=height))
    assert context.boxes == [] and context.hidden == ["dog"]


@pytest.mark.parametrize("boxes", [None, []])
def test_without_boxes_captions_alone_are_said(boxes: Any) -> None:
    context = Context.from_row(_row(boxes))
    said = {name for name in kind_names() if issubclass(find_kind(name), TemplateKind) and _turns(context, name)}
    assert said == {"caption"}


@pytest.mark.parametrize("captions", [None, [], [None], ["", "  "], ["...", "?!"]])
def test_without_captions_boxes_alone_are_said(captions: Any) -> None:
    context = Context.from_row(_row([_box("dog"), _box("cat", x=60)], captions))
    assert context.captions == [] and _turns(context, "caption") == _turns(context, "describe") == []
    assert len(_turns(context, "count")) == 2


def test_captions_are_kept_once_each_on_one_line() -> None:
    said = Context.from_row(_row(None, ["A dog.", "A \n dog.", " A cat. ", "A dog."])).captions
    assert said == ["A dog.", "A cat."]


def test_captions_and_labels_in_another_script_are_used_as_they_are() -> None:
    context = Context.from_row(_row([_box("犬"), _box("кошка", x=60)], ["公園に犬がいる。", "Большая кошка и собака"]))
    assert _turns(context, "caption")[0][1] in context.captions
    assert _turns(context, "describe")[0][1] == "公園に犬がいる。 Большая кошка и собака."
    assert {answer for _, answer in _turns(context, "region")} == {"犬", "кошка"}


def test_one_name_in_two_spellings_is_one_object() -> None:
    context = Context.from_row(_row([_box("Dog"), _box("dog ", x=60), _box("hot  dog", y=100)]))
    assert context.counts() == {"Dog": 2, "hot dog": 1}
    assert context.clear_labels == []  # "dog" may mean the hot dog as well


def test_text_boxes_are_no_objects() -> None:
    context = Context.from_row(_row([_box("text: EXIT"), _box("Text:Exit", y=80), _box("text:"), _box("dog", x=60)]))
    assert [box.label for box in context.texts] == ["EXIT", "Exit"]
    assert context.counts() == {"dog": 1} and context.complete


_NUMBER = st.one_of(st.none(), st.floats(width=32))
_LABEL = st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["dog", "cat", "text: a"]))
_BOXES = st.lists(
    st.fixed_dictionaries({"label": _LABEL, "x": _NUMBER, "y": _NUMBER, "w": _NUMBER, "h": _NUMBER}), max_size=4
)


@given(_BOXES, st.one_of(st.none(), st.lists(st.one_of(st.none(), st.text(max_size=20)), max_size=3)))
def test_any_row_gives_a_context_whose_boxes_lie_in_the_picture(boxes: Any, captions: Any) -> None:
    context = Context.from_row(_row(boxes, captions))
    for box in context.boxes + context.texts:
        assert 0 <= box.x1 < box.x2 <= 1 and 0 <= box.y1 < box.y2 <= 1 and box.label.strip()
    for name in kind_names():
        if issubclass(find_kind(name), TemplateKind):
            assert all(question and answer for question, answer in _turns(context, name))
