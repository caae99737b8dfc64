"""Ids are the same in every run, and differ where the row differs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.identity import digest, sample_id


def test_an_id_never_changes() -> None:
    assert sample_id("http://a/b.jpg", "a dog") == "d406e7bac7b97d13f593cf3e9da2fed1"
    assert digest({"b": 1, "a": [None, 2.5]}) == digest({"a": [None, 2.5], "b": 1})


@given(st.text(), st.text(), st.integers(0, 5), st.text(), st.text(), st.integers(0, 5))
def test_different_rows_have_different_ids(a: str, b: str, n: int, c: str, d: str, m: int) -> None:
    assert (sample_id(a, b, n) == sample_id(c, d, m)) == ((a, b, n) == (c, d, m))
    assert len(sample_id(a, b, n)) == 32
