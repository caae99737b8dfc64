"""Kinds that follow from boxes and captions: their answers, to the letter."""

from __future__ import annotations

import random
import re
import string
from importlib import import_module
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.conversation import Turn
from stages.evaluate import normalize
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds import PictureKind, TemplateKind, find_kind, kind_names
from stages.instruct.kinds.locate_tokens import location_tokens
from stages.instruct.kinds.point import points
from stages.instruct.kinds.relation import relation

_TEMPLATES = [name for name in kind_names() if issubclass(find_kind(name), TemplateKind)]


def _context(*boxes: tuple[str, float, float, float, float], captions: tuple[str, ...] = (), **more: object) -> Context:
    return Context("a" * 32, list(captions), [LabelledBox(*box) for box in boxes], **more)  # type: ignore[arg-type]


def _turns(name: str, context: Context, seed: int = 0) -> list[Turn]:
    kind = find_kind(name)()
    assert isinstance(kind, PictureKind)
    return kind.turns(context, random.Random(seed))


def _answers(name: str, context: Context, seeds: int = 40) -> set[str]:
    return {turn.answer for seed in range(seeds) for turn in _turns(name, context, seed)}


@pytest.mark.parametrize("name", _TEMPLATES)
def test_every_question_has_at_least_twelve_forms(name: str) -> None:
    lists = [
        value for value in vars(import_module(f"stages.instruct.kinds.{name}")).values() if isinstance(value, tuple)
    ]
    assert lists
    for forms in lists:
        assert len({form.casefold() for form in forms}) == len(forms) >= 12
        fields = [sorted({field for _, field, *_ in string.Formatter().parse(form) if field}) for form in forms]
        assert all(found == fields[0] for found in fields)


def test_count_says_all_and_one_label() -> None:
    context = _context(("dog", 0, 0, 0.2, 0.2), ("cat", 0.5, 0, 0.7, 0.2), ("dog", 0, 0.5, 0.2, 0.7))
    whole, one = _turns("count", context)
    assert (whole.answer, one.answer) == ("3", "2") and "dog" in one.question


def test_position_says_the_quarter_of_what_is_there_once_and_clearly() -> None:
    context = _context(
        ("dog", 0, 0, 0.2, 0.2), ("cat", 0.7, 0, 0.9, 0.2), ("cup", 0, 0.7, 0.2, 0.9), ("hat", 0.4, 0, 0.6, 0.2),
        ("bus", 0.6, 0.6, 0.7, 0.7), ("bus", 0.8, 0.8, 0.9, 0.9),
    )  # fmt: skip
    said = {(turn.answer, re.findall(r"\b(?:dog|cat|cup|hat|bus)\b", turn.question)[0])
            for seed in range(40) for turn in _turns("position", context, seed)}  # fmt: skip
    assert said == {("top left", "dog"), ("top right", "cat"), ("bottom left", "cup")}


def test_points_have_pixmos_form() -> None:
    one, two = LabelledBox("dog", 0.5, 0.1, 0.6, 0.3), LabelledBox("dog", 0.1, 0.2, 0.2, 0.4667)
    assert points([one], "dog") == '<point x="55.0" y="20.0" alt="dog">dog</point>'
    assert points([one, two], "dog") == '<points x1="15.0" y1="33.3" x2="55.0" y2="20.0" alt="dog">dog</points>'


_SHARE = st.floats(0, 1)
_EDGES = st.tuples(_SHARE, _SHARE).filter(lambda edges: abs(edges[0] - edges[1]) >= 0.002)
_BOX = st.builds(
    lambda xs, ys: LabelledBox("dog", min(xs), min(ys), max(xs), max(ys)), _EDGES, _EDGES
)  # fmt: skip


@given(
    st.lists(_BOX, min_size=1, max_size=5), st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1)
)
def test_points_are_sorted_and_any_label_is_read_back(boxes: list[LabelledBox], label: str) -> None:
    element = ElementTree.fromstring(points(boxes, label))
    assert element.text == element.attrib.pop("alt") == label
    numbers = [float(value) for value in element.attrib.values()]
    pairs = list(zip(numbers[0::2], numbers[1::2], strict=True))
    assert pairs == sorted(pairs) and len(pairs) == len(boxes) and all(0 <= number <= 100 for number in numbers)


def test_locate_gives_every_box_of_a_label_in_three_decimals() -> None:
    context = _context(("dog", 0.5, 0, 0.75, 1), ("dog", 0.1, 0.12345, 0.2, 0.5))
    assert _answers("locate", context) == {"[0.100, 0.123, 0.200, 0.500]; [0.500, 0.000, 0.750, 1.000]"}
    tokens = "<loc0126><loc0102><loc0512><loc0204> dog ; <loc0000><loc0512><loc1023><loc0768> dog"
    assert _answers("locate_tokens", context) == {tokens}


@given(_BOX)
def test_location_tokens_name_the_bin_of_each_edge(box: LabelledBox) -> None:
    bins = [int(number) for number in re.findall(r"<loc(\d{4})>", location_tokens(box))]
    for number, edge in zip(bins, (box.y1, box.x1, box.y2, box.x2), strict=True):
        assert number / 1024 <= edge <= (number + 1) / 1024


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ((0.1, 0.4, 0.3, 0.6), "left"), ((0.7, 0.45, 0.9, 0.7), "right"), ((0.4, 0, 0.6, 0.3), "above"),
        ((0.3, 0.7, 0.5, 0.9), "below"), ((0.45, 0.45, 0.55, 0.55), "inside"),
        ((0.1, 0.1, 0.3, 0.3), None),  # up and to the left
        ((0.3, 0.4, 0.45, 0.6), None),  # over the edge
        ((0.1, 0.57, 0.3, 0.9), None),  # beside it by a sliver
        ((0.41, 0.41, 0.6, 0.6), None),  # within, and nearly as large
    ],
)  # fmt: skip
def test_relation_is_said_only_where_it_is_clear(first: tuple[float, ...], said: str | None) -> None:
    assert relation(LabelledBox("dog", *first), LabelledBox("rug", 0.4, 0.4, 0.6, 0.6)) == said


@given(_BOX, _BOX)
def test_relations_mirror(one: LabelledBox, other: LabelledBox) -> None:
    mirrored = {"left": "right", "right": "left", "above": "below", "below": "above"}
    said, back = relation(one, other), relation(other, one)
    if said in mirrored:
        assert back == mirrored[said]
    if said == "inside":
        assert back is None


def test_relation_names_both_objects_in_their_roles() -> None:
    context = _context(("dog", 0.1, 0.4, 0.3, 0.6), ("rug", 0.5, 0.4, 0.7, 0.6))
    for seed in range(40):
        (turn,) = _turns("relation", context, seed)
        if "seen from the rug" in turn.question:
            assert turn.answer == "left"
        if "seen from the dog" in turn.question:
            assert turn.answer == "right"
    assert _answers("relation", context) == {"left", "right"}


def test_attribute_knows_sizes_that_differ_clearly_and_colours_in_labels() -> None:
    context = _context(("dog", 0, 0, 0.5, 0.5), ("red apple", 0.6, 0, 0.7, 0.1), ("cup", 0.8, 0.8, 0.98, 0.98))
    answers = _answers("attribute", context)
    assert answers == {"dog", "cup", "red"}
    assert all("red apple" not in turn.question for turn in _turns("attribute", context) if turn.answer == "red")
    assert _answers("attribute", _context(("dog", 0, 0, 0.5, 0.5), ("cup", 0.5, 0.5, 0.9, 0.9))) == set()


def test_a_colour_is_not_asked_for_where_another_object_bears_the_name() -> None:
    assert _answers("attribute", _context(("red apple", 0, 0, 0.1, 0.1), ("apple", 0.5, 0.5, 0.6, 0.6))) == set()
    assert _answers("attribute", _context(("red apple", 0, 0, 0.1, 0.1), ("green apple", 0.5, 0.5, 0.6, 0.6))) == set()
    assert _answers("attribute", _context(("red apple", 0, 0, 0.1, 0.1), unnamed=1)) == set()


def test_region_names_what_is_there_unless_two_share_the_place() -> None:
    dog, rug = ("dog", 0.1, 0.1, 0.4, 0.4), ("rug", 0.6, 0.6, 0.9, 0.9)
    assert {(turn.answer, "[0.600, 0.600, 0.900, 0.900]" in turn.question) for seed in range(9)
            for turn in _turns("region", _context(dog, rug), seed)} == {("dog", False), ("rug", True)}  # fmt: skip
    assert _answers("region", _context(dog, ("puppy", 0.1, 0.1, 0.41, 0.4), rug)) == {"rug"}


def test_read_says_what_is_written_and_asks_by_place_where_there_is_more_than_one_text() -> None:
    exit_, seven = LabelledBox("EXIT", 0.1, 0.1, 0.3, 0.2), LabelledBox("No. 7", 0.5, 0.5, 0.7, 0.6)
    assert _answers("read", _context(texts=[exit_])) == {"EXIT"}
    turns = [turn for seed in range(9) for turn in _turns("read", _context(texts=[exit_, seven]), seed)]
    assert {turn.answer for turn in turns} == {"EXIT", "No. 7"}
    assert all((exit_ if turn.answer == "EXIT" else seven).corners in turn.question for turn in turns)


def test_describe_joins_captions_and_says_nothing_twice() -> None:
    context = _context(captions=("A dog", "A dog and a cat.", "Two animals play!", "a cat, a dog and"))
    assert _answers("describe", context) == {"A dog and a cat. Two animals play!"}
    assert _answers("describe", _context(captions=("A dog and a cat.",))) == set()
    assert _answers("describe", _context(captions=("word " * 30,))) == {"word " * 30 + "."}


@pytest.mark.parametrize("name", [name for name in _TEMPLATES if find_kind(name).exact])
def test_exact_answers_are_a_few_words_that_survive_normalizing(name: str) -> None:
    text = LabelledBox("EXIT", 0.7, 0.1, 0.9, 0.2)
    boxes = (("dog", 0.1, 0.1, 0.4, 0.4), ("red apple", 0.6, 0.1, 0.7, 0.3), ("cup", 0.1, 0.7, 0.2, 0.8))
    contexts = [_context(*boxes, texts=[text]), _context(("bus", 0, 0, 0.2, 0.2))]
    kind = find_kind(name)()
    assert isinstance(kind, TemplateKind)
    turns = [turn for seed in range(20) for every in kind.turns_of(contexts, [random.Random(seed), random.Random(seed)])
             for turn in every]  # fmt: skip
    assert turns
    assert all(turn.kind == name and normalize(turn.answer) == turn.answer.casefold() for turn in turns)
    assert max(len(turn.answer.split()) for turn in turns) <= 2


def test_a_label_with_marks_of_its_own_is_taken_as_it_is() -> None:
    context = _context(('{0} "A&B" <dog>', 0.1, 0.1, 0.4, 0.4))
    assert _answers("region", context) == {'{0} "A&B" <dog>'}
    (turn,) = _turns("point", context)
    assert ElementTree.fromstring(turn.answer).get("alt") == '{0} "A&B" <dog>'
