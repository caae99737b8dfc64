"""Pairs of 64-bit hashes that differ in few bits, without comparing all with all."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np

_MOST_CHOSEN = 8
_PAIRS_AT_ONCE = 1 << 20
#: Time of sorting one hash, and of anything at all for one choice of blocks, in times of comparing one pair.
_SORT_COST, _CHOICE_COST = 0.5, 5000


def hamming_pairs(
    hashes: np.ndarray, max_hamming: int, targets: int | None = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of places whose hashes differ in at most `max_hamming` bits. Exact.

    Of k + c blocks of bits, two hashes that differ in at most k bits agree in c at least. So for every choice of c
    blocks the hashes are sorted by these, and those that agree in them are compared (Manku, Jain and Das Sarma 2007,
    section 3). c is the one with the least work for this many hashes.

    Args:
        hashes: uint64 [n].
        targets: one of the two must be among the first so many; None where any two may pair.
        threads: all cores where None.

    Returns:
        (left, right): int64, `left < right`, each pair once, in order.
    """
    count = len(hashes)
    targets = count if targets is None else targets
    choices = _choices(count, max_hamming)
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "hamming") as pool:
        searches = pool.map(lambda blocks: _agreeing(hashes, blocks, max_hamming, targets), choices)
        found = [np.empty(0, np.uint64), *searches]
    pairs = np.unique(np.concatenate(found))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _choices(count: int, max_hamming: int) -> list[list[tuple[int, int]]]:
    """The choices of blocks by which the hashes are to be sorted; a block is (shift, bits)."""
    most_bits = 64 - max(count - 1, 1).bit_length()
    plans = []
    for chosen in range(1, min(_MOST_CHOSEN, 64 - max_hamming) + 1):
        blocks = max_hamming + chosen
        bits = min(64 // blocks, most_bits // chosen)
        compared = count * count / 2 ** (bits * chosen + 1)
        work = math.comb(blocks, chosen) * (_CHOICE_COST + _SORT_COST * count + compared)
        plans.append((work, [(block * bits, bits) for block in range(blocks)], chosen))
    _, cut, chosen = min(plans)
    return [list(choice) for choice in combinations(cut, chosen)]


def _agreeing(hashes: np.ndarray, blocks: list[tuple[int, int]], max_hamming: int, targets: int) -> np.ndarray:
    """The near ones among pairs that agree in all of `blocks`: uint64, the lower place in the upper 32 bits."""
    place_bits = np.uint64(max(len(hashes) - 1, 1).bit_length())
    packed = np.zeros(len(hashes), np.uint64)
    for shift, bits in blocks:
        packed <<= np.uint64(bits)
        packed |= (hashes >> np.uint64(shift)) & np.uint64((1 << bits) - 1)
    packed <<= place_bits
    packed |= np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    keys, order = packed >> place_bits, (packed & np.uint64((1 << int(place_bits)) - 1)).astype(np.int64)
    found = [np.empty(0, np.uint64)]
    for one, other in _in_runs(keys):
        left, right = order[one], order[other]
        left, right = np.minimum(left, right), np.maximum(left, right)
        near = np.bitwise_count(hashes[left] ^ hashes[right]) <= max_hamming
        near &= left < targets
        found.append((left[near].astype(np.uint64) << np.uint64(32)) | right[near].astype(np.uint64))
    return np.concatenate(found)


def _in_runs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places with equal keys, in pieces of bounded size. `keys` are sorted."""
    one = np.flatnonzero(keys[1:] == keys[:-1])
    step = 1
    while len(one):
        for start in range(0, len(one), _PAIRS_AT_ONCE):
            piece = one[start : start + _PAIRS_AT_ONCE]
            yield piece, piece + step
        step += 1
        one = one[one + step < len(keys)]
        one = one[keys[one + step] == keys[one]]
