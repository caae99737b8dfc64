"""Words of captions and labels, told in any script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.words import overlap, with_article, words_of


@pytest.mark.parametrize(
    ("name", "said"),
    [("dog", "a dog"), ("apple", "an apple"), ("umbrella", "a umbrella"), ("3d printer", "a 3d printer"),
     ("犬", "犬"), ("Ёж", "Ёж"), ("'quote'", "'quote'"), ("", "")],
)  # fmt: skip
def test_an_article_stands_before_latin_names_alone(name: str, said: str) -> None:
    assert with_article(name) == said


@pytest.mark.parametrize(
    ("one", "other"),
    [("dogs", "dog"), ("Berries", "berry"), ("wolves", "wolf"), ("knives", "knife"), ("boxes", "box"),
     ("watches", "watch"), ("dishes", "dish"),
     ("glasses", "glass"), ("potatoes", "potato"), ("people", "person"), ("children's", "child")],
)  # fmt: skip
def test_a_plural_is_the_same_word(one: str, other: str) -> None:
    assert words_of(one) == words_of(other)


def test_words_that_end_like_plurals_stay_apart() -> None:
    assert words_of("bus") != words_of("bu") and words_of("glass") != words_of("gla")


def test_scripts_without_spaces_are_told_by_character() -> None:
    assert words_of("犬") <= words_of("公園に犬がいる。")
    assert words_of("собака") <= words_of("Большая собака!")


@pytest.mark.parametrize(
    ("one", "other", "is_so"),
    [
        ("dog", "guide dogs", True),
        ("hot dog", "Dog", True),
        ("cat", "caterpillar", False),
        ("red car", "red bus", False),
    ],
)
def test_names_overlap_where_one_holds_all_words_of_the_other(one: str, other: str, is_so: bool) -> None:
    assert overlap(one, other) == overlap(other, one) == is_so


@given(st.text(max_size=60))
def test_any_text_has_words_without_spaces_in_them(text: str) -> None:
    assert all(word and not word.isspace() and " " not in word for word in words_of(text))
    assert words_of(text) <= words_of(f"{text} and more")
