"""All pairs of 1,000,000 64-bit hashes within 6 bits: how fast, and whether it is what comparing all with all finds.

Hashes are random; a tenth of them are copies of others with up to 6 bits turned.
"""

from __future__ import annotations

import os
import time

import numpy as np

from bench.goals import print_goal
from stages.select.dedup.hamming import hamming_pairs

COUNT, CHECKED, MAX_HAMMING = 1_000_000, 20_000, 6
LEAST_PER_SECOND = 50_000


def main(quick: bool) -> None:
    """Prints the goals' lines."""
    count = COUNT // 10 if quick else COUNT
    seconds = []
    for _ in range(3):
        hashes = planted(count)
        begin = time.perf_counter()
        found = len(hamming_pairs(hashes, MAX_HAMMING, threads=2)[0])
        seconds.append(time.perf_counter() - begin)
    assert found >= count // 10
    exact = np.array_equal(hamming_pairs(planted(CHECKED), MAX_HAMMING), all_pairs(planted(CHECKED)))
    rate = count / float(np.median(seconds))
    print_goal("select", f"hashes a second, all pairs of {count:,} within {MAX_HAMMING} bits", rate, LEAST_PER_SECOND,
               seconds=[round(each, 2) for each in seconds], pairs=found, threads=2,
               cores=len(os.sched_getaffinity(0)))  # fmt: skip
    print_goal("select", f"pairs of {CHECKED:,} hashes are those of comparing all with all", float(exact), 1.0)


def planted(count: int) -> np.ndarray:
    """uint64 [count]: random, the last tenth near the first."""
    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 1 << 64, count, np.uint64)
    turned = np.zeros(count // 10, np.uint64)
    for _ in range(MAX_HAMMING):
        turned |= np.uint64(1) << rng.integers(0, 64, len(turned)).astype(np.uint64)
    hashes[count - len(turned) :] = hashes[: len(turned)] ^ turned
    return hashes


def all_pairs(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Near pairs by comparing every hash with all after it, in order."""
    later = [
        row + 1 + np.flatnonzero(np.bitwise_count(hashes[row + 1 :] ^ hashes[row]) <= MAX_HAMMING)
        for row in range(len(hashes))
    ]
    return np.repeat(np.arange(len(hashes)), [len(rows) for rows in later]), np.concatenate(later)
