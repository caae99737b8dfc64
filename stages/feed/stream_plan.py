"""The plan of a training step that streams: it grows by the packs of one part after the other.

It is a pure function of (lengths of the parts in their order, settings, seed), whenever the parts came. What is
planned stays: the plan of the first parts is the begin of the plan of more parts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import SluiceError
from schemas.tables import LENGTHS, PLAN
from stages.feed.fill import fill_packs
from stages.feed.plan import (
    STAGE,
    chosen_rows,
    fill_rate,
    pack_table,
    plan_counts,
    plan_file,
    plan_packs,
    planned,
    tiles_of,
    training_rows,
)
from stages.feed.settings import FeedSettings
from stages.graph import PartOutput, PartWork
from stages.run_folder import RunFolder, work_key
from stages.store import read_parquet
from stages.train.settings import TrainStep

VERSION = 1
#: The plan of one part, and the part in which each sample lies; null from the second epoch on.
PART_PLAN = PLAN.append(pa.field("part", pa.int32()))


def grow_plan(
    left: pa.Table, fresh: pa.Table, tokens_per_pack: int, pictures_per_pack: int, seed: int, part: int, last: bool
) -> tuple[pa.Table, pa.Table]:
    """Packs a part's conversations, shuffled, together with what was left of the parts before.

    Args:
        left, fresh: rows of `schemas.tables.LENGTHS`.
        last: no part follows, so nothing is left over.

    Returns:
        `PART_PLAN`, its packs numbered from 0, and the rows that are left for the next part.
    """
    rows = pa.concat_tables([left, fresh])
    random = np.random.default_rng([seed, 0, part])
    members = [*range(len(left)), *(len(left) + random.permutation(len(fresh))).tolist()]
    packs: list[list[int]] = []
    if members:
        sizes, tiles = rows["length"].to_numpy(), tiles_of(rows)
        packs, members = fill_packs(members, sizes, tiles, tokens_per_pack, pictures_per_pack, finish=last)
    plan = pack_table(rows, [packs[number] for number in random.permutation(len(packs))], [0] * len(packs))
    place = pc.index_in(plan["conversation_id"], rows["conversation_id"].combine_chunks())
    return plan.append_column(PART_PLAN.field("part"), rows["part"].take(place)), rows.take(
        pa.array(members, pa.int64())
    )


class StreamPlanWork(PartWork):
    """RUN/lengths/<part>.parquet to RUN/plan/<step>/<part>.parquet, and what is left over to .../left/<part>.parquet.

    Parts must come in their order. Further epochs follow the last part, planned over all parts as a staged run does.
    Counts: `packs`, `conversations`, `tokens`, and `end`, the number of packs up to this part.
    """

    version = VERSION

    def __init__(self, run: RunFolder, step: TrainStep, feed: FeedSettings, seed: int) -> None:
        super().__init__(run)
        self.step, self.feed, self.seed = step, feed, seed
        self.stage = _stage(step.name)  # type: ignore[misc]
        self._last = run.parts()[-1]

    def settings(self) -> Any:
        return {
            "step": self.step.model_dump(include={"epochs", "kinds"}),
            "feed": self.feed.model_dump(include={"tokens_per_pack", "pictures_per_pack", "window"}),
            "seed": self.seed,
        }

    def key(self, part: int) -> str:
        inputs = [self.run.output_digest("feed", part)]
        if part > 0:
            inputs.append(self.before(part))
        return work_key(self.stage, self.version, [self.settings(), part == self._last], inputs)

    def compute(self, part: int) -> PartOutput:
        step, feed, last = self.step, self.feed, part == self._last
        left, begin = LENGTHS.empty_table(), 0
        if part > 0:
            left = read_parquet(self.run.path(_left_file(step.name, part - 1)))
            begin = (self.run.manifest(self.stage, part - 1) or {})["counts"]["end"]
        fresh = training_rows(self.run.read_table("lengths", [part]), step.kinds)
        plan, left = grow_plan(left, fresh, feed.tokens_per_pack, feed.pictures_per_pack, self.seed, part, last)
        packs = pc.count_distinct(plan["pack"]).as_py()
        if last and begin + packs == 0:
            chosen_rows(self.run.read_table("lengths", self.run.parts()), step.kinds)  # says what is there instead
        if last and step.epochs > 1:
            plan = pa.concat_tables([plan, self._later_epochs(packs)])
        counts = plan_counts(plan)
        plan = plan.set_column(0, "pack", pc.add(plan["pack"], begin))
        counts["end"] = begin + counts["packs"]
        return PartOutput({stream_file(step.name, part): plan, _left_file(step.name, part): left}, counts)

    def _later_epochs(self, begin: int) -> pa.Table:
        """The packs from the second epoch on, numbered from `begin`."""
        step, feed = self.step, self.feed
        lengths = self.run.read_table("lengths", self.run.parts())
        plan = plan_packs(lengths, feed.tokens_per_pack, self.seed, step.epochs, feed.window, step.kinds,
                          feed.pictures_per_pack)  # fmt: skip
        plan = plan.filter(pc.greater(plan["epoch"], 0))
        numbers = pc.add(plan["pack"], begin - plan["pack"][0].as_py())
        nulls = pa.nulls(len(plan), pa.int32())
        return plan.set_column(0, "pack", numbers).append_column(PART_PLAN.field("part"), nulls)


def write_stream_plan(run: RunFolder, step: TrainStep, settings: FeedSettings) -> dict[str, float]:
    """Puts the plans of the parts together in RUN/plan/<step>.parquet; returns what `write_plan` does.

    Raises:
        SluiceError: a part is not planned yet.
    """
    parts = run.parts()
    stage = _stage(step.name)
    digests = [run.output_digest(stage, part) for part in parts]
    if None in digests:
        raise SluiceError(f"plan: part {digests.index(None)} is not planned yet; run the stream to its end first")
    key = work_key(STAGE, VERSION, "stream", digests)
    if not run.is_done(STAGE, step.name, key):
        tables = [read_parquet(run.path(stream_file(step.name, part))) for part in parts]
        table = pa.concat_tables(tables).select(PLAN.names)
        fill = fill_rate(table, settings.tokens_per_pack)
        run.commit(STAGE, step.name, key, {plan_file(step.name): table}, plan_counts(table), version=VERSION, fill=fill)
    return planned(run, step.name)


def stream_file(step_name: str, part: int) -> str:
    """Path in the run folder of what a part adds to the plan."""
    return f"plan/{step_name}/{part:05d}.parquet"


def _left_file(step_name: str, part: int) -> str:
    return f"plan/{step_name}/left/{part:05d}.parquet"


def _stage(step_name: str) -> str:
    return f"{STAGE}/{step_name}"
