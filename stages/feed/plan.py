"""The plan: which conversations stand in which pack, decided from lengths alone, before any picture is read.

It is a pure function of (lengths, settings, seed), so any number of workers reads the same batches, and a run that
is started again goes on with the exact next pack.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError, SluiceError
from schemas.tables import PLAN
from stages.feed.settings import FeedSettings
from stages.run_folder import RunFolder, work_key
from stages.train.settings import TrainStep

STAGE = "plan"
VERSION = 1

#: Conversations that a pack is filled from, at least.
_CANDIDATES = 64


def plan_packs(
    lengths: pa.Table,
    tokens_per_pack: int,
    seed: int,
    epochs: float = 1,
    window: int = 4096,
    kinds: Sequence[str] | None = None,
    pictures_per_pack: int | None = None,
) -> pa.Table:
    """Packs the training conversations of `lengths` into sequences of at most `tokens_per_pack` positions.

    Each epoch shuffles all conversations and cuts them into windows. A pack takes the next conversation and, of
    some dozens of others, those that fill it best (an exact subset sum). What is left at the end of a window goes on
    into the next one. A window's packs are shuffled. Conversations are never cut.

    Args:
        lengths: rows of `schemas.tables.LENGTHS`; only those of split `train` are used.
        epochs: a fraction at the end takes that share of the last epoch's shuffled conversations.
        kinds: conversation kinds to use; all, where None.
        pictures_per_pack: most conversations (each has one picture at most) in a pack; no limit, where None.

    Returns:
        A table of `schemas.tables.PLAN`, in training order.

    Raises:
        InputError: there is nothing to plan, or a conversation is longer than a pack.
    """
    chosen = chosen_rows(lengths, kinds)
    sizes = chosen["length"].to_numpy()
    if sizes.max() > tokens_per_pack:
        raise InputError(
            f"feed.tokens_per_pack: {tokens_per_pack} is less than the longest conversation ({sizes.max()} tokens)"
        )
    packs: list[list[int]] = []
    pack_epochs: list[int] = []
    for epoch, order in _epoch_orders(len(chosen), seed, epochs):
        random = np.random.default_rng([seed, epoch, 1])
        members: list[int] = []
        for begin in range(0, len(order), window):
            last = begin + window >= len(order)
            members += order[begin : begin + window].tolist()
            made, members = fill_packs(members, sizes, tokens_per_pack, pictures_per_pack or len(sizes), finish=last)
            packs += [made[number] for number in random.permutation(len(made))]
        pack_epochs += [epoch] * (len(packs) - len(pack_epochs))
    return pack_table(chosen, packs, pack_epochs)


def plan_batches(
    lengths: pa.Table, batch: int, seed: int, epochs: float = 1, kinds: Sequence[str] | None = None
) -> pa.Table:
    """Plans contrastive batches: a pack is a batch of distinct samples.

    The samples of an epoch are spread evenly over its batches, so that none is left over and none is tiny. Samples
    without a picture are left out.

    Args:
        batch: most samples in a batch.

    Returns:
        A table of `schemas.tables.PLAN`, in training order.
    """
    chosen = chosen_rows(lengths.filter(pc.invert(lengths["text_only"].fill_null(False))), kinds)
    first: dict[str, int] = {}
    for row, sample in enumerate(chosen["sample_id"].to_pylist()):
        first.setdefault(sample, row)
    chosen = chosen.take(list(first.values()))
    packs: list[list[int]] = []
    pack_epochs: list[int] = []
    for epoch, order in _epoch_orders(len(chosen), seed, epochs):
        pieces = np.array_split(order, math.ceil(len(order) / batch))
        packs += [piece.tolist() for piece in pieces]
        pack_epochs += [epoch] * len(pieces)
    return pack_table(chosen, packs, pack_epochs)


def fill_rate(plan: pa.Table, tokens_per_pack: int) -> float:
    """Share of the packs' positions that hold a token."""
    packs = pc.count_distinct(plan["pack"]).as_py()
    return pc.sum(plan["length"]).as_py() / (packs * tokens_per_pack)


def write_plan(run: RunFolder, step: TrainStep, settings: FeedSettings, seed: int) -> dict[str, float]:
    """Plans one training step and commits RUN/plan/<step name>.parquet, unless that is done.

    Returns:
        `packs`, `conversations`, `tokens`, and `fill` (share of positions that hold a token; 1 for contrastive steps).
    """
    how = {
        "step": step.model_dump(include={"objective", "epochs", "kinds", "batch"}),
        "feed": settings.model_dump(include={"tokens_per_pack", "pictures_per_pack", "window"}),
        "seed": seed,
    }
    key = work_key(STAGE, VERSION, how, [run.output_digest("feed", part) for part in run.parts()])
    if not run.is_done(STAGE, step.name, key):
        lengths = run.read_table("lengths", run.parts())
        if step.objective == "contrastive":
            table, fill = plan_batches(lengths, step.batch, seed, step.epochs, step.kinds), 1.0
        else:
            room, most = settings.tokens_per_pack, settings.pictures_per_pack
            table = plan_packs(lengths, room, seed, step.epochs, settings.window, step.kinds, most)
            fill = fill_rate(table, room)
        counts = {
            "packs": pc.count_distinct(table["pack"]).as_py(),
            "conversations": len(table),
            "tokens": pc.sum(table["length"]).as_py(),
        }
        run.commit(STAGE, step.name, key, {plan_file(step.name): table}, counts, version=VERSION, fill=fill)
    manifest = run.manifest(STAGE, step.name)
    if manifest is None:
        raise SluiceError(f"the plan of step '{step.name}' vanished from {run.path('manifests')}: start the run again")
    return {**manifest["counts"], "fill": manifest["fill"]}


def plan_file(step_name: str) -> str:
    """The plan's path in the run folder."""
    return f"plan/{step_name}.parquet"


def training_rows(lengths: pa.Table, kinds: Sequence[str] | None) -> pa.Table:
    """The rows of split `train` and of these kinds; of all kinds, where None."""
    chosen = lengths.filter(pc.equal(lengths["split"], "train"))
    if kinds is not None:
        chosen = chosen.filter(pc.is_in(chosen["kind"], pa.array(kinds, pa.string())))
    return chosen


def chosen_rows(lengths: pa.Table, kinds: Sequence[str] | None) -> pa.Table:
    """`training_rows`, of which there must be some.

    Raises:
        InputError: there is none.
    """
    chosen = training_rows(lengths, kinds)
    if not len(chosen):
        known = sorted(set(lengths["kind"].to_pylist()))
        wanted = "" if kinds is None else f" of the kinds {', '.join(kinds)}"
        raise InputError(f"no training conversation{wanted} is in the shards; there are {', '.join(known) or 'none'}")
    return chosen


def _epoch_orders(rows: int, seed: int, epochs: float) -> list[tuple[int, np.ndarray]]:
    """For every epoch its number and the shuffled row numbers it uses."""
    orders = []
    for epoch in range(math.ceil(epochs)):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        orders.append((epoch, order[: max(1, round(min(1.0, epochs - epoch) * rows))]))
    return orders


def fill_packs(
    members: list[int], sizes: np.ndarray, room: int, most: int, finish: bool
) -> tuple[list[list[int]], list[int]]:
    """Packs `members` (row numbers, shuffled) into packs of `room` tokens and at most `most` members.

    Returns:
        The packs, and what is left because too few others remained to choose from; nothing, where `finish`.
    """
    enough = max(_CANDIDATES, math.ceil(2 * room * len(members) / int(sizes[members].sum())))
    waiting = deque(members)
    packs: list[list[int]] = []
    while waiting and (finish or len(waiting) > enough):
        first = waiting.popleft()
        candidates = [waiting.popleft() for _ in range(min(len(waiting), enough, most - 1))]
        chosen = set(_best_subset([int(sizes[row]) for row in candidates], room - int(sizes[first])))
        packs.append([first, *(row for place, row in enumerate(candidates) if place in chosen)])
        # What was not chosen goes to the end, so that each pack sees other candidates.
        waiting.extend(row for place, row in enumerate(candidates) if place not in chosen)
    return packs, list(waiting)


def _best_subset(sizes: list[int], room: int) -> list[int]:
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


def pack_table(chosen: pa.Table, packs: list[list[int]], epochs: list[int]) -> pa.Table:
    """`schemas.tables.PLAN` of packs of row numbers of `chosen`, each of an epoch."""
    counts = np.array([len(pack) for pack in packs], np.int64)
    rows = np.array([row for pack in packs for row in pack], np.int64)
    taken = chosen.take(rows)
    begins = np.repeat(np.cumsum(counts) - counts, counts)
    columns = {
        "pack": np.repeat(np.arange(len(packs)), counts),
        "position": np.arange(len(rows)) - begins,
        "epoch": np.repeat(epochs, counts),
        "conversation_id": taken["conversation_id"],
        "sample_id": taken["sample_id"],
        "length": taken["length"],
        "supervised": taken["supervised"],
        "source": taken["kind"],
    }
    return pa.table(columns).cast(PLAN)
