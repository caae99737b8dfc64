"""Kinds of conversation: found by file name, and true to boxes and captions."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds import EndpointKind, Rejected, TemplateKind, find_kind, kind_names
from stages.sample.world import scene_of


def _context(row: int) -> Context:
    scene = scene_of(21, row)
    width, height = scene.picture.size
    boxes = [
        LabelledBox(p.name, p.box[0] / width, p.box[1] / height, (p.box[0] + p.box[2]) / width,
                    (p.box[1] + p.box[3]) / height)
        for p in scene.objects
    ]  # fmt: skip
    vocabulary = sorted({box.label for box in boxes} | {"anchor", "banjo", "cactus", "dragon"})
    return Context(f"{row:032x}", scene.captions, boxes, vocabulary)


def test_kinds_are_found_by_the_name_of_their_file() -> None:
    assert {"caption", "count", "presence", "position", "conversation", "detail", "reasoning"} == set(kind_names())
    for name in kind_names():
        assert find_kind(name)().name == name


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown kind 'counting'.*count"):
        find_kind("counting")


@pytest.mark.parametrize("row", range(30))
def test_template_answers_agree_with_the_boxes(row: int) -> None:
    context = _context(row)
    counts = context.counts()
    rng = random.Random(row)
    whole, one = find_kind("count")().turns(context, rng)  # type: ignore[attr-defined]
    assert whole.answer == str(len(context.boxes))
    label = next(name for name in sorted(counts, key=len, reverse=True) if name in one.question)
    assert one.answer == str(counts[label])
    for turn in find_kind("presence")().turns(context, rng):  # type: ignore[attr-defined]
        named = re.sub(r"[?]", " ", turn.question)
        asked = next(name for name in sorted(context.vocabulary, key=len, reverse=True) if f" {name} " in named)
        assert turn.answer == ("yes" if asked in counts else "no")
    for turn in find_kind("position")().turns(context, rng):  # type: ignore[attr-defined]
        box = next(b for b in sorted(context.boxes, key=lambda b: -len(b.label)) if f" {b.label}" in turn.question)
        x, y = box.centre
        assert turn.answer == f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def test_presence_is_balanced() -> None:
    kind = find_kind("presence")()
    assert isinstance(kind, TemplateKind)
    answers = Counter(turn.answer for row in range(60) for turn in kind.turns(_context(row), random.Random(row)))
    assert answers["yes"] == answers["no"]


def test_no_boxes_no_grounded_turns() -> None:
    bare = Context("a" * 32, ["Two dogs."])
    for name in ("count", "presence", "position"):
        assert find_kind(name)().turns(bare, random.Random(0)) == []  # type: ignore[attr-defined]
    assert find_kind("caption")().turns(bare, random.Random(0))[0].answer == "Two dogs."  # type: ignore[attr-defined]


def test_prompts_show_boxes_to_those_kinds_alone_that_see_them() -> None:
    context = _context(3)
    for name, sees in (("conversation", False), ("detail", True), ("reasoning", True)):
        kind = find_kind(name)()
        assert isinstance(kind, EndpointKind)
        messages = kind.messages(context)
        assert messages[0]["role"] == "system" and messages[-1]["role"] == "user"
        assert (f"{context.boxes[0].label}: [" in messages[-1]["content"]) == sees
        assert context.captions[0] in messages[-1]["content"]


def _read(name: str, text: str) -> list[tuple[str, str]]:
    kind = find_kind(name)()
    assert isinstance(kind, EndpointKind)
    return [(turn.question, turn.answer) for turn in kind.read(text, _context(0), random.Random(0))]


def test_pairs_are_read_and_an_unfinished_tail_is_left_out() -> None:
    whole = "Question: What is it?\nAnswer: A dog.\nQuestion: What colour?\nAnswer: Brown."
    assert _read("conversation", whole) == [("What is it?", "A dog."), ("What colour?", "Brown.")]
    assert _read("conversation", whole + "\nQuestion: And") == _read("conversation", whole)
    assert _read("conversation", whole + "\nQuestion: Why?\nAnswer: It is") == _read("conversation", whole)


def test_a_repeated_question_ends_the_conversation() -> None:
    text = "Question: What is it?\nAnswer: A dog.\nQuestion: What is it?\nAnswer: A cat."
    assert _read("conversation", text) == [("What is it?", "A dog.")]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("conversation", "It is a dog.", "broken_turns"),
        ("conversation", "Answer: A dog.\nQuestion: What?", "broken_turns"),
        ("conversation", "Question: What?\nAnswer: The caption says a dog.", "leak"),
        ("detail", "A dog stands at [0.100, 0.200, 0.300, 0.400] in the picture, near a kite.", "leak"),
        ("detail", "Nice.", "too_short"),
        ("detail", "I'm sorry, I can't see the picture that you speak of, so no.", "refusal"),
        ("detail", "a dog sits on the grass and a dog sits on the grass again.", "repetition"),
        ("reasoning", "Question: Why?\nAnswer: Because.", "too_short"),
    ],
)
def test_bad_answers_are_rejected_with_a_reason(name: str, text: str, reason: str) -> None:
    with pytest.raises(Rejected, match=reason):
        _read(name, text)


@given(st.text(alphabet=st.sampled_from(list("QA:nuestioswr \n.?")), max_size=200))
def test_any_answer_is_read_or_rejected(text: str) -> None:
    for name in ("conversation", "detail", "reasoning"):
        try:
            turns = _read(name, text)
        except Rejected:
            continue
        assert turns and all(question and answer for question, answer in turns)
