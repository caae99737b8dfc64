"""Kinds of conversation: found by file name, and those without a language model true to the scenes of a world."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.instruct._truth import is_true
from bench.instruct.grounded import said_of, truth_of
from schemas.errors import InputError
from stages.instruct.kinds import exact_kinds, find_kind, kind_names

_GROUNDED = {"caption", "describe", "presence", "count", "point", "locate", "locate_tokens", "relation", "position",
             "attribute", "region", "read"}  # fmt: skip


def test_kinds_are_found_by_the_name_of_their_file() -> None:
    assert {*_GROUNDED, "conversation", "detail", "reasoning"} <= set(kind_names())
    assert all(find_kind(name)().name == name for name in kind_names())


def test_kinds_with_exact_answers_are_named() -> None:
    assert exact_kinds() == ["attribute", "count", "position", "presence", "read", "region", "relation"]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="there is no kind 'counting'.*count"):
        find_kind("counting")


def test_answers_about_scenes_are_true_and_those_of_other_scenes_are_not() -> None:
    truths = [truth_of(row) for row in range(40)]
    said = said_of([truth.row for truth in truths])
    assert {each.turn.kind for each in said} == _GROUNDED
    assert all(is_true(each.turn, each.asked, truths[each.row]) for each in said)
    others = [
        (replace(each.turn, answer=other.turn.answer), each)
        for each, other in zip(said, said[1:], strict=False)
        if each.turn.kind == other.turn.kind and each.turn.answer != other.turn.answer
    ]
    assert {turn.kind for turn, _ in others} == _GROUNDED
    assert not any(is_true(turn, each.asked, truths[each.row]) for turn, each in others)
