"""Presence: every object is asked for as often where it is not as where it is, and never where that is not sure."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.instruct.balance import Asked, balance_presence
from stages.instruct.context import Context, LabelledBox
from stages.instruct.kinds import TemplateKind, find_kind


def _context(place: int, labels: list[str], captions: list[str] | None = None, unnamed: int = 0) -> Context:
    boxes = [LabelledBox(label, 0.1, 0.1, 0.5, 0.5) for label in labels]
    return Context(f"{place:032x}", captions or [], boxes, unnamed=unnamed)


def _chances(contexts: list[Context], seed: int = 3) -> list[random.Random]:
    return [random.Random(f"{seed}/{context.sample_id}") for context in contexts]


def _asked(contexts: list[Context], seed: int = 3) -> list[list[Asked]]:
    return balance_presence(contexts, _chances(contexts, seed))


def _life(pictures: int) -> list[Context]:
    """Pictures of two places whose objects go together; persons are in half of all."""
    rng = np.random.default_rng(8)
    places = (["fork", "knife", "plate", "cup", "bowl"], ["car", "bus", "road", "lamp", "bench"])
    contexts = []
    for place in range(pictures):
        labels = list(rng.choice(places[place % 2], rng.integers(1, 4), replace=False))
        contexts.append(_context(place, labels + ["person"] * (rng.random() < 0.5)))
    return contexts


def _tally(asked: list[list[Asked]], present: bool) -> Counter[str]:
    return Counter(each.label for every in asked for each in every if each.present is present)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=4), max_size=25), st.integers(0, 99))
def test_yes_and_no_are_even_for_every_object_and_true(labels: list[list[str]], seed: int) -> None:
    contexts = [_context(place, each) for place, each in enumerate(labels)]
    asked = _asked(contexts, seed)
    assert _tally(asked, True) == _tally(asked, False)
    for context, every in zip(contexts, asked, strict=True):
        assert all(each.present == (each.label in context.counts()) for each in every)
        assert len({each.label for each in every}) == len(every)


def test_more_questions_a_picture_stay_even_and_true() -> None:
    contexts = _life(300)
    asked = balance_presence(contexts, _chances(contexts), most=4)
    assert np.mean([len(every) for every in asked]) > 1.5 * np.mean([len(every) for every in _asked(contexts)])
    assert max(map(len, asked)) > 2 and _tally(asked, True) == _tally(asked, False)
    for context, every in zip(contexts, asked, strict=True):
        assert all(each.present == (each.label in context.counts()) for each in every)
        assert len({each.label for each in every}) == len(every)


def test_every_picture_with_boxes_is_asked_about() -> None:
    asked = _asked(_life(300))
    assert all(asked) and np.mean([len(every) for every in asked]) > 1.6


def test_absent_objects_are_asked_for_where_their_partners_are() -> None:
    contexts = _life(300)
    kitchen = {"fork", "knife", "plate", "cup", "bowl"}
    absent = [(context, each.label) for context, every in zip(contexts, _asked(contexts), strict=True)
              for each in every if not each.present and each.label != "person"]  # fmt: skip
    same_place = [(label in kitchen) == bool(kitchen & set(context.counts())) for context, label in absent]
    assert np.mean(same_place) > 0.75  # half, if they were drawn at random


def test_one_answer_about_a_picture_does_not_tell_the_next() -> None:
    pairs = [(every[0].present, every[1].present) for every in _asked(_life(1200)) if len(every) == 2]
    assert abs(np.mean([first == second for first, second in pairs]) - 0.5) < 0.06


def test_what_may_be_there_is_not_asked_for_as_absent() -> None:
    # A dog is boxed in a half; in the other half a caption, a related name or a nameless box leaves it open.
    contexts = [_context(place, ["dog"]) for place in range(6)]
    contexts += [
        _context(6, ["tree"], ["Some Dogs under a tree."]),
        _context(7, ["guide dog"]),
        _context(8, ["cat"], unnamed=1),
    ]
    assert "dog" not in _tally(_asked(contexts), True) and "dog" not in _tally(_asked(contexts), False)
    contexts.append(_context(9, ["cat"]))
    assert _tally(_asked(contexts), True)["dog"] == 1


def test_an_object_in_all_pictures_and_pictures_without_boxes_are_not_asked_about() -> None:
    assert _asked([_context(place, ["dog"]) for place in range(5)]) == [[]] * 5
    assert _asked([_context(0, ["dog"]), _context(1, [], ["A street."])]) == [[], []]
    assert _asked([]) == []


def test_an_object_in_nearly_all_pictures_is_asked_for_as_often_as_it_is_missing() -> None:
    contexts = [_context(place, ["person"]) for place in range(45)] + [
        _context(45 + place, ["cup"]) for place in range(5)
    ]
    assert _tally(_asked(contexts), True)["person"] == 5


def test_the_same_chances_ask_the_same_and_others_do_not() -> None:
    contexts = _life(60)
    assert _asked(contexts) == _asked(contexts) != _asked(contexts, seed=4)


def test_answers_are_yes_and_no_in_the_words_of_the_kind() -> None:
    kind, contexts = find_kind("presence")(), _life(40)
    assert isinstance(kind, TemplateKind) and kind.exact
    turns = [turn for every in kind.turns_of(contexts, _chances(contexts)) for turn in every]
    assert Counter(turn.answer for turn in turns)["yes"] * 2 == len(turns)
    assert {turn.answer for turn in turns} == {"yes", "no"}
