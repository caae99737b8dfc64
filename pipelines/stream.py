"""`sluice run --stream`: the stages from acquire to the first training step at work at once, part by part."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.line import Counts, Line, embed_places, gpu_share, rows_of_parts, start_ray
from pipelines.progress import meter
from pipelines.recipe import Recipe
from schemas.errors import InputError
from stages.graph import PartWork, Place, count_over_parts, run_parts
from stages.store import remove_folder

if TYPE_CHECKING:
    from stages.feed.stream_plan import StreamPlanWork
    from stages.train.stream import Feeding

log = logging.getLogger("sluice")

#: Logical CPUs that each maker of batches holds.
_MAKER_CPUS = 0.25


def check_streams(recipe: Recipe) -> None:
    """Sees that nothing in the recipe needs all rows before training begins.

    Raises:
        InputError: something does; the message names its key, and what a stream can do instead.
    """
    from stages.select.stream import check_select_streams

    check_select_streams(recipe.select)
    if not recipe.train or recipe.model is None or recipe.contrastive:
        raise InputError(
            "train: --stream feeds a language step, and the first step of this recipe is none; run without"
        )
    first = recipe.train[0]
    where = f"train.0 ({first.name})"
    for key in ("mixture", "tokens"):
        if getattr(first, key) is not None:
            instead = "kinds" if key == "mixture" else "max_steps"
            raise InputError(f"{where}: {key} is planned over all conversations, which a stream does not know; give "
                             f"{instead}, or let a later step have it")  # fmt: skip
    if first.epochs < 1:
        raise InputError(f"{where}: epochs: {first.epochs:g} is a share of all, which a stream does not know; give "
                         "max_steps instead")  # fmt: skip
    if first.max_steps is None and first.needs_total():
        raise InputError(f"{where}: its rates depend on the number of optimizer steps, which a stream does not know; "
                         "give max_steps, or schedule: constant with warmup_steps")  # fmt: skip
    if first.validate_every:
        raise InputError(f"{where}: validate_every: what is held out is known at a stream's end alone; leave it out")
    if not recipe.feed.shards and (len(recipe.train) > 1 or first.epochs > 1):
        raise InputError("feed.shards: false: a second step or epoch reads the shards that a stream leaves; write them")


def check_staged(recipe: Recipe) -> None:
    """Sees that a run that does not stream has what its training reads.

    Raises:
        InputError: it writes no shards.
    """
    if recipe.train and not recipe.feed.shards:
        raise InputError("feed.shards: false: only a stream trains without shards; run with --stream, or write them")


def run_stream(line: Line) -> Counts:
    """Sends the parts, in their order, through all stages from acquire to feed; trains the first step on what is there.

    Returns:
        The counts of select, of feed and of the plan.

    Raises:
        SluiceError: a stage or the training failed; the message is its own. Starting again goes on where it was.
    """
    from stages.feed.stream_plan import StreamPlanWork, write_stream_plan
    from stages.select import check_inputs
    from stages.select.filter_network import scoring_clip
    from stages.select.stream import write_stream_decisions

    run, recipe = line.run, line.recipe
    check_streams(recipe)
    check_inputs(recipe.select)
    start_ray(recipe)
    places = _places(line)
    plan = StreamPlanWork(run, recipe.train[0], recipe.feed, recipe.seed)
    parts, rows = run.parts(), rows_of_parts(run)
    works: list[PartWork] = [*(place.make() for place in places), plan]
    done = run.map(lambda part: all(work.done(part) for work in works), parts)
    # What a part comes to depends on all before it: what follows one that is not done has to be looked at again.
    fresh = parts[[*done, False].index(False) :]
    settled = len(parts) - len(fresh)
    with meter("stream", sum(rows.values()), "rows") as progress, _Training(line, plan) as training:
        progress.skip(sum(rows[part] for part in parts[:settled]))
        for part in parts[:settled]:
            training.add(part)
        for part in _in_order(run_parts(places, fresh), fresh):
            training.add(part)
            log.info("stream: part %d of %d has come through feed", part + 1, len(parts))
            progress.advance(rows[part])
        clip = scoring_clip(run, recipe.select.clip)
        counts: Counts = dict(
            write_stream_decisions(
                run, recipe.select.model_copy(update={"clip": clip}), recipe.feed.holdout, recipe.seed
            )
        )
        planned = write_stream_plan(run, recipe.train[0], recipe.feed)
        training.finish()
    counts |= count_over_parts(run, "feed", parts)
    return counts | {f"{recipe.train[0].name}_{name}": value for name, value in planned.items()}


class _Training:
    """The first step, planned part by part, and trained in a thread from when there is something to train on.

    A run that is started again may have a checkpoint on the way. It is good as long as no part comes out otherwise
    than before, so training does not begin before all parts that were planned then have been looked at.
    """

    def __init__(self, line: Line, plan: StreamPlanWork) -> None:
        from stages.train.stream import StreamStepWork

        run, recipe = line.run, line.recipe
        self.line, self.plan = line, plan
        self.work = StreamStepWork(run, recipe.model, recipe.train[:1], recipe.seed)
        self.known = max((part for part in run.parts() if run.manifest(plan.stage, part) is not None), default=-1)
        self.feeding: Feeding | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="training")
        self.trained: Future[None] | None = None

    def add(self, part: int) -> None:
        """Plans a part that has come through feed, and lets it be trained on.

        Raises:
            SluiceError: training has failed.
        """
        run, plan = self.line.run, self.plan
        if not plan.done(part):
            if part <= self.known:
                # What was learned of the part as it was before does not count any more.
                remove_folder(self.work.folder / "state")
                self.known = -1
            plan.process(part)
        packs = (run.manifest(plan.stage, part) or {"counts": {"end": 0}})["counts"]["end"]
        if self.trained is None and part >= self.known and packs and not self.work.done():
            self._begin()
        if self.trained is not None and self.trained.done():
            self.trained.result()
        if self.feeding is not None:
            self.feeding.planned(part + 1)

    def finish(self) -> None:
        """Says that all parts have come, and waits until the step is trained.

        Raises:
            SluiceError: training failed.
        """
        if self.trained is None and not self.work.done():
            self._begin()
        if self.feeding is not None and self.trained is not None:
            self.feeding.end(len(self.line.run.parts()))
            self.trained.result()

    def __enter__(self) -> _Training:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self.feeding is not None:
            self.feeding.fail()
        self.thread.shutdown()
        self.feeding = None

    def _begin(self) -> None:
        from stages.train.ray import fit
        from stages.train.stream import Feeding

        recipe = self.line.recipe
        assert recipe.model is not None
        log.info("train %s: begins while data comes", self.work.step.name)
        self.feeding = self.work.feeding = Feeding.start(self.line.run, recipe.feed, recipe.model, _MAKER_CPUS)
        self.trained = self.thread.submit(fit, self.work, recipe.ray, None, gpu_share(_gpu_claims(recipe)))


def _places(line: Line) -> list[Place]:
    """The stages from acquire to feed, so small that all of them find room beside training."""
    import ray

    from stages.acquire import acquire_place
    from stages.feed import ShardWork
    from stages.instruct import instruct_place
    from stages.select.filter_network import scoring_clip
    from stages.select.stream import SelectWork

    run, recipe = line.run, line.recipe
    select, holdout, seed, feed = recipe.select, recipe.feed.holdout, recipe.seed, recipe.feed

    def make_select() -> SelectWork:
        scored = select.model_copy(update={"clip": scoring_clip(run, select.clip)})
        return SelectWork(run, scored, holdout, seed)

    places = [
        acquire_place(run, recipe.acquire, line.retry_failed, recipe.source),
        *embed_places(run, select, others=recipe.ray.train_workers),
        Place(make_select, num_cpus=0.5, in_order=True),
        instruct_place(run, recipe.instruct, seed, recipe.source.rows_per_part),
        Place(lambda: ShardWork(run, feed, recipe.model), num_cpus=1, actors=feed.actors),
    ]
    return fitted(places, ray.cluster_resources().get("CPU", 0), recipe.ray.train_workers + feed.actors * _MAKER_CPUS)


def fitted(places: list[Place], cpus: float, held: float) -> list[Place]:
    """The places with so much less of a CPU for each actor that all of them fit beside what is held.

    Args:
        cpus: logical CPUs of the cluster.
        held: those that training holds.

    Raises:
        InputError: training leaves none.
    """
    asked = sum(place.num_cpus * place.actors for place in places)
    if held >= cpus:
        raise InputError(f"ray: {cpus:g} logical CPUs have no room for stages beside training, which holds {held:g} in "
                         f"a stream; give ray.num_cpus: {int(held) + 4} or fewer train_workers")  # fmt: skip
    share = min(1.0, (cpus - held) / asked)
    # Ray counts in ten-thousandths.
    return [replace(place, num_cpus=int(10_000 * place.num_cpus * share) / 10_000) for place in places]


def _gpu_claims(recipe: Recipe) -> int:
    """Actors that want a share of a GPU."""
    select = recipe.select
    return recipe.ray.train_workers + sum(clip.actors for clip in (select.clip, *select.models.values()))


def _in_order(found: Iterable[int], parts: list[int]) -> Iterator[int]:
    """`found`, which are `parts` as they come, in the order of `parts`."""
    waiting: list[int] = []
    missing = iter(parts)
    following = next(missing, None)
    for part in found:
        heapq.heappush(waiting, part)
        while waiting and waiting[0] == following:
            yield heapq.heappop(waiting)
            following = next(missing, None)
