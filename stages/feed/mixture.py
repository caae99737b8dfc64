"""Packs of a mixture: conversations of several components, each component's share of the tokens as its weight says."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from stages.feed.fill import best_subset, candidate_count


@dataclass
class Mixed:
    """Packs of a mixture, in training order.

    Attributes:
        packs: row numbers.
        epochs: for every row in the packs, in their order, which pass over its component it belongs to, from 0.
        ended: component -> how many packs there were when nothing of it was left.
    """

    packs: list[list[int]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    ended: dict[int, int] = field(default_factory=dict)


def mix_packs(
    sizes: np.ndarray,
    tiles: np.ndarray,
    components: Sequence[np.ndarray],
    weights: Sequence[float],
    room: int,
    most: int,
    seed: int,
    passes: float | None,
    tokens: float,
) -> Mixed:
    """Packs conversations so that after every pack each component has its share of the tokens, within one pack.

    Conversations are drawn from the component that lacks most, as Megatron-LM blends data sets
    (`build_blending_indices`), though by tokens, not by samples. A pack begins with what is most in arrears; the rest
    are those of the next dozens that fill it best and keep all shares within half a pack. Of a component each pass is
    used up before the next begins, so its conversations are used equally often, within one.

    Args:
        sizes, tiles: tokens and tiles of each row, of both one at least.
        components: row numbers of each.
        room, most: tokens and tiles in a pack, at most; what has more tiles than that stands in a pack alone.
        passes: how often each component is gone through before it ends; where None, as often as is needed. When one
            ends, the others go on by their weights, counted anew.
        tokens: the packs end with the one that reaches so many.
    """
    streams = [_passes(rows, [seed, number], passes) for number, rows in enumerate(components)]
    means = [float(sizes[rows].mean()) for rows in components]
    count = sum(weight / mean for weight, mean in zip(weights, means, strict=True))
    enough = candidate_count(room, count, sum(weights))
    drawn, packed, mixed = _Shares(weights), _Shares(weights), Mixed()
    pool: list[_Drawn] = []
    done = 0
    while done < tokens:
        while len(pool) < enough and drawn.live:
            number = drawn.neediest(drawn.live)
            row, epoch = next(streams[number], (-1, -1))
            if row < 0:
                drawn.end(number)
                continue
            pool.append(_Drawn(row, number, epoch, int(sizes[row]), int(tiles[row])))
            drawn.add(number, pool[-1].size)
        if not pool:
            break
        chosen = _choose(pool, packed, room, most)
        pack = [pool[place] for place in chosen]
        mixed.packs.append([one.row for one in pack])
        mixed.epochs += [one.epoch for one in pack]
        for one in pack:
            packed.add(one.component, one.size)
            done += one.size
        gone = set(chosen)
        pool = [one for place, one in enumerate(pool) if place not in gone]
        left = {*drawn.live, *(one.component for one in pool)}
        for number in [number for number in packed.live if number not in left]:
            packed.end(number)
            mixed.ended[number] = len(mixed.packs)
    return mixed


class _Drawn(NamedTuple):
    row: int
    component: int
    epoch: int
    size: int
    tiles: int


class _Shares:
    """How many tokens each component has had, and should have had by its weight."""

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = [weight / sum(weights) for weight in weights]
        self.live = list(range(len(weights)))
        self.given = [0.0] * len(weights)
        self.total = 0.0

    def add(self, number: int, tokens: int) -> None:
        self.given[number] += tokens
        self.total += tokens

    def lacks(self, number: int, ahead: float = 0) -> float:
        """Tokens that the component is short of when `ahead` more are given to any."""
        return self.weights[number] * (self.total + ahead) - self.given[number]

    def neediest(self, among: Sequence[int]) -> int:
        return max(among, key=self.lacks)

    def end(self, number: int) -> None:
        """Takes a component out; the others' counts begin anew."""
        self.live.remove(number)
        whole = sum(self.weights[other] for other in self.live)
        self.weights = [weight / whole if other in self.live else 0.0 for other, weight in enumerate(self.weights)]
        self.given = [0.0] * len(self.given)
        self.total = 0.0

    def worst(self, added: Sequence[_Drawn]) -> float:
        """The most tokens that a component has too many or too few, once these are added."""
        given = self.given.copy()
        for one in added:
            given[one.component] += one.size
        total = sum(given)
        return max(abs(self.weights[number] * total - given[number]) for number in self.live)


def _passes(rows: np.ndarray, seed: list[int], passes: float | None) -> Iterator[tuple[int, int]]:
    """Rows, shuffled anew in every pass, and the pass's number; a fraction at the end takes that share of a pass."""
    for epoch in itertools.count() if passes is None else range(math.ceil(passes)):
        order = np.random.default_rng([*seed, epoch]).permutation(rows)
        if passes is not None and passes - epoch < 1:
            order = order[: max(1, round((passes - epoch) * len(rows)))]
        for row in order.tolist():
            yield row, epoch


def _choose(pool: list[_Drawn], packed: _Shares, room: int, most: int) -> list[int]:
    """Places in `pool` of the next pack."""
    first = _first(pool, packed, room, most)
    begun = [pool[place] for place in first]
    left = room - sum(one.size for one in begun)
    bound = max(room / 2, packed.worst(begun))
    taken, passes = set(first), dict[int, int]()
    others = []
    for place, one in enumerate(pool):
        if place not in taken and passes.setdefault(one.component, one.epoch) == one.epoch and one.size <= left:
            others.append(place)
    spare = most - sum(one.tiles for one in begun)
    together = itertools.accumulate(pool[place].tiles for place in others)
    others = others[: sum(tiles <= spare for tiles in together)]
    while others:
        rest = [others[place] for place in best_subset([pool[place].size for place in others], left)]
        if packed.worst([*begun, *(pool[place] for place in rest)]) <= bound:
            return first + rest
        others = others[: len(others) // 2]
    return first


def _first(pool: list[_Drawn], packed: _Shares, room: int, most: int) -> list[int]:
    """Places of what a pack begins with: one of the component that lacks most, and more while one lacks half a pack."""
    waiting: dict[int, list[int]] = {}
    for place, one in enumerate(pool):
        waiting.setdefault(one.component, []).append(place)
    lacks = {number: packed.lacks(number, room) for number in waiting}
    first: list[int] = []
    left, spare = room, most
    while waiting and spare > 0:
        number = max(waiting, key=lambda one: lacks[one])
        size, tiles = pool[waiting[number][0]].size, pool[waiting[number][0]].tiles
        if first and (size > left or tiles > spare or lacks[number] <= room / 2):
            break
        first.append(waiting[number].pop(0))
        lacks[number] -= size
        left -= size
        spare -= tiles
        if not waiting[number]:
            del waiting[number]
    return first
