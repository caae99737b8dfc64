"""The loss on held-out conversations, by kind. It is measured while a step trains, and changes nothing in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import distributed

from stages.feed.batches import Piece, PiecePlan, prefetch
from stages.feed.plan import by_component, plan_batches, plan_packs
from stages.run_folder import RunFolder
from stages.train.objectives import Objective
from stages.train.settings import TrainStep

log = logging.getLogger("sluice")

#: The name that the mean over all kinds goes by.
ALL = "all"


class Validation:
    """Held-out conversations, packed kind by kind, so that a pack's loss is that of its kind.

    They are read when they are first asked for: in a stream they are not there before.

    Args:
        plan: the step's own plan, whose packs say how much goes into one.
        collate: opens the held-out shards, and gives what makes a batch of a piece.
        rank, world: each of `world` ranks measures its share; all get the same result.
    """

    def __init__(
        self,
        run: RunFolder,
        step: TrainStep,
        plan: pa.Table,
        objective: Objective[Any],
        collate: Callable[[], Callable[[Piece], Any]],
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.run, self.step, self.plan, self.objective, self.seed = run, step, plan, objective, seed
        self.rank, self.world = rank, world
        self._open = collate

    def losses(self) -> dict[str, float] | None:
        """Kind -> its summed loss by its supervised tokens (pairs, in contrastive steps), and `all`.

        None where no conversation of the step's kinds is held out.
        """
        if not self._pieces:
            return None
        kinds, counts = list(self._counts), self._counts
        sums = torch.zeros(len(kinds), dtype=torch.float64, device=self.objective.device)
        last = len(self._pieces) - 1
        # Every rank passes as many pieces forward as any other, since a sharded model needs all of them at once.
        mine = range(self.rank, -(-len(self._pieces) // self.world) * self.world, self.world)
        batches = prefetch((self._pieces[min(number, last)][1] for number in mine), self._collate)
        with self.objective.measuring():
            for number, batch in zip(mine, batches, strict=True):
                loss = self.objective.loss(batch)
                if number <= last:
                    sums[kinds.index(self._pieces[number][0])] += loss
        if self.world > 1:
            distributed.all_reduce(sums)
        found = dict(zip(kinds, sums.tolist(), strict=True))
        by_kind = {kind: loss / counts[kind] for kind, loss in found.items()}
        return {ALL: sum(found.values()) / counts.total(), **by_kind}

    @cached_property
    def _pieces(self) -> list[tuple[str, Piece]]:
        """In batches as large as those of training."""
        packs = max(1, self.step.global_packs // (self.step.accumulation * self.world))
        pieces = held_out_pieces(self.run, self.step, self.plan, packs, self.seed)
        if not pieces and self.step.validate_samples and self.rank == 0:
            log.info("train %s: no conversation of its kinds is held out: no validation", self.step.name)
        return pieces

    @cached_property
    def _counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for kind, piece in self._pieces:
            counts[kind] += piece.divisor
        return counts

    @cached_property
    def _collate(self) -> Callable[[Piece], Any]:
        return self._open()


def held_out_pieces(run: RunFolder, step: TrainStep, plan: pa.Table, packs: int, seed: int) -> list[tuple[str, Piece]]:
    """At most `step.validate_samples` held-out conversations of the step's kinds, drawn by `seed`, as pieces.

    Args:
        plan: the step's own plan, whose packs say how much goes into one.
        packs: packs in a piece.

    Returns:
        Each piece with the kind of its conversations; nothing, where none is held out.
    """
    lengths = _drawn(run.read_table("lengths", run.parts()), step, seed)
    if not len(lengths):
        return []
    used = plan.group_by("pack").aggregate([("length", "sum"), ("length", "count")])
    room = max(pc.max(used["length_sum"]).as_py(), pc.max(lengths["length"]).as_py())
    most = pc.max(used["length_count"]).as_py()
    found: list[tuple[str, Piece]] = []
    for kind in sorted(set(lengths["kind"].to_pylist())):
        one = lengths.filter(pc.equal(lengths["kind"], kind))
        if step.objective == "contrastive":
            packed = plan_batches(one, step.batch, seed)
        else:
            packed = plan_packs(one, room, seed, pictures_per_pack=most)
        found += [(kind, piece) for piece in PiecePlan(packed, packs).pieces()]
    return found


def _drawn(lengths: pa.Table, step: TrainStep, seed: int) -> pa.Table:
    """Rows of LENGTHS, marked as those that a plan is made of."""
    held = lengths.filter(pc.equal(lengths["split"], "val")).sort_by("conversation_id")
    kinds = step.kinds
    if step.objective == "contrastive":
        held = held.filter(pc.invert(held["text_only"].fill_null(False)))
    elif step.mixture is not None:
        held, kinds = by_component(held), list(step.mixture)
    if kinds is not None:
        held = held.filter(pc.is_in(held["kind"], pa.array(kinds, pa.string())))
    chosen = np.random.default_rng([seed, len(held)]).permutation(len(held))[: step.validate_samples]
    held = held.take(np.sort(chosen))
    return held.set_column(held.schema.get_field_index("split"), "split", pa.array(["train"] * len(held), pa.string()))
