"""Fills packs: of some dozens of conversations those whose lengths add up best (Martello & Toth 1990, chapter 4)."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

#: Conversations that a pack is filled from, at least.
_CANDIDATES = 64


def fill_packs(
    members: list[int], sizes: np.ndarray, tiles: np.ndarray, room: int, most: int, finish: bool
) -> tuple[list[list[int]], list[int]]:
    """Packs `members` (row numbers, shuffled) into packs of `room` tokens and at most `most` tiles.

    Packs are only appended: what is left over goes, before further members, into the next call.

    Args:
        sizes, tiles: tokens and tiles of each row; a row has a tile at least, and one that has more than `most` stands
            in a pack alone.

    Returns:
        The packs, and what is left because too few others remained to choose from; nothing, where `finish`.
    """
    enough = candidate_count(room, len(members), int(sizes[members].sum()))
    waiting = deque(members)
    packs: list[list[int]] = []
    while waiting and (finish or len(waiting) > enough):
        first = waiting.popleft()
        candidates: list[int] = []
        spare = most - tiles[first]
        while waiting and len(candidates) < enough and tiles[waiting[0]] <= spare:
            spare -= tiles[waiting[0]]
            candidates.append(waiting.popleft())
        chosen = set(best_subset([int(sizes[row]) for row in candidates], room - int(sizes[first])))
        packs.append([first, *(row for place, row in enumerate(candidates) if place in chosen)])
        # What was not chosen goes to the end, so that each pack sees other candidates.
        waiting.extend(row for place, row in enumerate(candidates) if place not in chosen)
    return packs, list(waiting)


def best_subset(sizes: list[int], room: int) -> list[int]:
    """Places in `sizes` whose sum is the largest one that `room` allows.

    The sums that can be reached are the set bits of an integer, so one candidate costs one shift.
    """
    reachable = [1]
    within = (1 << (room + 1)) - 1
    for size in sizes:
        reachable.append(reachable[-1] | (reachable[-1] << size & within))
    total = reachable[-1].bit_length() - 1
    chosen = []
    for place in range(len(sizes) - 1, -1, -1):
        if not reachable[place] >> total & 1:
            chosen.append(place)
            total -= sizes[place]
    return chosen


def candidate_count(room: int, conversations: float, tokens: float) -> int:
    """How many of so many conversations with so many tokens a pack is filled from: twice what fits, at least 64."""
    return max(_CANDIDATES, math.ceil(2 * room * conversations / tokens))
