"""The plan: which conversations stand in which pack, decided from lengths alone, before any picture is read.

It is a pure function of (lengths, settings, seed), so any number of workers reads the same batches, and a run that
is started again goes on with the exact next pack.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import InputError, SluiceError
from schemas.tables import PLAN
from stages.feed.fill import fill_packs
from stages.feed.mixture import mix_packs
from stages.feed.settings import FeedSettings
from stages.run_folder import RunFolder, work_key
from stages.train.settings import TrainStep

log = logging.getLogger("sluice")

STAGE = "plan"
VERSION = 1
#: The component of a mixture that holds all conversations about no picture.
TEXT_ONLY = "text_only"


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
        pictures_per_pack: most tiles of pictures in a pack, where each conversation counts as one at least; no limit,
            where None.

    Returns:
        A table of `schemas.tables.PLAN`, in training order.

    Raises:
        InputError: there is nothing to plan, or a conversation is longer than a pack.
    """
    chosen = chosen_rows(lengths, kinds)
    sizes, tiles = _sizes(chosen, tokens_per_pack), tiles_of(chosen)
    most = pictures_per_pack or int(tiles.sum())
    packs: list[list[int]] = []
    pack_epochs: list[int] = []
    for epoch, order in _epoch_orders(len(chosen), seed, epochs):
        random = np.random.default_rng([seed, epoch, 1])
        members: list[int] = []
        for begin in range(0, len(order), window):
            last = begin + window >= len(order)
            members += order[begin : begin + window].tolist()
            made, members = fill_packs(members, sizes, tiles, tokens_per_pack, most, finish=last)
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


def plan_mixture(
    lengths: pa.Table,
    tokens_per_pack: int,
    seed: int,
    step: TrainStep,
    pictures_per_pack: int | None = None,
) -> tuple[pa.Table, dict[str, dict[str, Any]]]:
    """Packs a mixture: after every pack each component has its share of the tokens, within one pack.

    Every component is needed from the first pack on, so a plan of the first parts is not the begin of a plan of more.

    Args:
        step: its `mixture`, `repeat`, `epochs` and `tokens`.

    Returns:
        A table of `schemas.tables.PLAN` whose `source` is the component and whose `epoch` is the component's own, and
        for each component its `share`, `tokens` and `passes` (a fraction where the last is not whole), and
        `ended_at_pack`, the packs there were when it ended; null where it did not.

    Raises:
        InputError: a component is not in the shards, or a conversation is longer than a pack.
    """
    weights = dict(sorted((step.mixture or {}).items()))
    rows = _components(lengths, list(weights), step.name)
    names, sizes = rows["kind"].to_numpy(), _sizes(rows, tokens_per_pack)
    components = [np.flatnonzero(names == name) for name in weights]
    whole = [int(sizes[places].sum()) for places in components]
    passes = None if step.repeat else step.epochs
    tokens = step.tokens or (step.epochs * sum(whole) if step.repeat else math.inf)
    tiles = tiles_of(rows)
    most = pictures_per_pack or int(tiles.sum())
    mixed = mix_packs(sizes, tiles, components, list(weights.values()), tokens_per_pack, most, seed, passes, tokens)
    table = pack_table(rows, mixed.packs, [0] * len(mixed.packs))
    table = table.set_column(PLAN.get_field_index("epoch"), PLAN.field("epoch"), pa.array(mixed.epochs, pa.int32()))
    rows_used, lengths_used = table["source"].to_numpy(), table["length"].to_numpy()
    told = {}
    for number, (name, weight) in enumerate(weights.items()):
        used = int(lengths_used[rows_used == name].sum())
        told[name] = {
            "share": weight / sum(weights.values()),
            "tokens": used,
            "passes": used / whole[number],
            "ended_at_pack": mixed.ended.get(number),
        }
    return table, told


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
        "step": step.model_dump(include={"objective", "epochs", "kinds", "batch", "mixture", "repeat", "tokens"}),
        "feed": settings.model_dump(include={"tokens_per_pack", "pictures_per_pack", "window"}),
        "seed": seed,
    }
    key = work_key(STAGE, VERSION, how, [run.output_digest("feed", part) for part in run.parts()])
    if not run.is_done(STAGE, step.name, key):
        lengths = run.read_table("lengths", run.parts())
        table, mixture = _plan(lengths, step, settings, seed)
        fill = 1.0 if step.objective == "contrastive" else fill_rate(table, settings.tokens_per_pack)
        counts = plan_counts(table)
        more = {"fill": fill, "mixture": mixture}
        run.commit(STAGE, step.name, key, {plan_file(step.name): table}, counts, version=VERSION, **more)
        for line in ran_out(run, step.name):
            log.info("plan %s: %s", step.name, line)
    return planned(run, step.name)


def planned(run: RunFolder, step_name: str) -> dict[str, float]:
    """What `write_plan` returns of a step whose plan is committed.

    Raises:
        SluiceError: it is not.
    """
    manifest = run.manifest(STAGE, step_name)
    if manifest is None:
        raise SluiceError(f"the plan of step '{step_name}' vanished from {run.path('manifests')}: start the run again")
    return {**manifest["counts"], "fill": manifest["fill"]}


def plan_counts(plan: pa.Table) -> dict[str, int]:
    """`packs`, `conversations` and `tokens` of rows of `schemas.tables.PLAN`."""
    packs, tokens = pc.count_distinct(plan["pack"]).as_py(), pc.sum(plan["length"]).as_py() or 0
    return {"packs": packs, "conversations": len(plan), "tokens": tokens}


def ran_out(run: RunFolder, step_name: str) -> list[str]:
    """What is to be told of a planned step's mixture: a line for each component that ran out."""
    lines = []
    for name, found in (run.manifest(STAGE, step_name) or {}).get("mixture", {}).items():
        if found["ended_at_pack"] is not None:
            lines.append(
                f"'{name}' ran out after pack {found['ended_at_pack']} ({found['passes']:.2f} passes); "
                "the others went on by their weights"
            )
        elif found["passes"] > 1:
            lines.append(f"'{name}' ran out and was repeated: {found['passes']:.2f} passes over it")
    return lines


def plan_file(step_name: str) -> str:
    """The plan's path in the run folder."""
    return f"plan/{step_name}.parquet"


def training_rows(lengths: pa.Table, kinds: Sequence[str] | None) -> pa.Table:
    """The rows of split `train` and of these kinds; of all kinds, where None."""
    chosen = lengths.filter(pc.equal(lengths["split"], "train"))
    if kinds is not None:
        chosen = chosen.filter(pc.is_in(chosen["kind"], pa.array(kinds, pa.string())))
    return chosen


def by_component(rows: pa.Table) -> pa.Table:
    """Rows of `schemas.tables.LENGTHS`, each with its component of a mixture in place of its kind."""
    component = pc.if_else(rows["text_only"].fill_null(False), TEXT_ONLY, rows["kind"])
    return rows.set_column(rows.column_names.index("kind"), "kind", component)


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


def _plan(
    lengths: pa.Table, step: TrainStep, settings: FeedSettings, seed: int
) -> tuple[pa.Table, dict[str, dict[str, Any]]]:
    """The plan of a step, and what came of each component of its mixture."""
    room, most = settings.tokens_per_pack, settings.pictures_per_pack
    if step.objective == "contrastive":
        return plan_batches(lengths, step.batch, seed, step.epochs, step.kinds), {}
    if step.mixture is not None:
        return plan_mixture(lengths, room, seed, step, most)
    epochs = step.epochs
    if step.tokens is not None:
        epochs = math.ceil(step.tokens / pc.sum(chosen_rows(lengths, step.kinds)["length"]).as_py())
    plan = plan_packs(lengths, room, seed, epochs, settings.window, step.kinds, most)
    return (plan if step.tokens is None else _until(plan, step.tokens)), {}


def _components(lengths: pa.Table, names: list[str], step: str) -> pa.Table:
    """The training rows of these components, each with its component as its kind.

    Raises:
        InputError: there are none of a component.
    """
    rows = by_component(training_rows(lengths, None))
    there = set(pc.unique(rows["kind"]).to_pylist())
    for name in names:
        if name not in there:
            raise InputError(
                f"train.{step}: mixture: no training conversation of '{name}' is in the shards; "
                f"there are {', '.join(sorted(there)) or 'none'}"
            )
    return rows.filter(pc.is_in(rows["kind"], pa.array(names)))


def _sizes(rows: pa.Table, tokens_per_pack: int) -> np.ndarray:
    sizes = rows["length"].to_numpy()
    if sizes.max() > tokens_per_pack:
        raise InputError(
            f"feed.tokens_per_pack: {tokens_per_pack} is less than the longest conversation ({sizes.max()} tokens)"
        )
    return sizes


def tiles_of(rows: pa.Table) -> np.ndarray:
    """Tiles of each conversation's picture; 1 where there is no picture, so that conversations are bounded as well."""
    return np.maximum(rows["tiles"].fill_null(1).to_numpy(), 1)


def _until(plan: pa.Table, tokens: int) -> pa.Table:
    """The plan up to and with the pack that reaches so many tokens."""
    reached = np.searchsorted(np.cumsum(plan["length"].to_numpy()), tokens)
    if reached >= len(plan):
        return plan
    return plan.filter(pc.less_equal(plan["pack"], plan["pack"][int(reached)]))


def _epoch_orders(rows: int, seed: int, epochs: float) -> list[tuple[int, np.ndarray]]:
    """For every epoch its number and the shuffled row numbers it uses."""
    orders = []
    for epoch in range(math.ceil(epochs)):
        order = np.random.default_rng([seed, epoch]).permutation(rows)
        orders.append((epoch, order[: max(1, round(min(1.0, epochs - epoch) * rows))]))
    return orders


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
