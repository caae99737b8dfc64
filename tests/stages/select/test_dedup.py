"""Exact duplicates among rows in order of preference."""

import numpy as np

from stages.select.dedup.exact import exact_duplicates


def test_exact_dedup_keeps_the_first_of_each() -> None:
    assert exact_duplicates(np.array([7, 3, 7, 7, 3, 1])).tolist() == [-1, -1, 0, 0, 1, -1]
    assert exact_duplicates(np.array([], np.int64)).tolist() == []


def test_exact_dedup_goes_by_bytes_and_by_pixels() -> None:
    assert exact_duplicates(np.array([7, 3, 7, 4, 5]), np.array([1, 2, 8, 2, 8])).tolist() == [-1, -1, 0, 1, 0]
