"""What `sluice run` does around the flow: the folder before it, and what is printed after it."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from rich.console import Console

from pipelines.line import Line, prepare, stages_until, train
from pipelines.recipe import Recipe
from pipelines.stream import check_staged, check_streams
from pipelines.tables import evaluation_table, funnel_table, loss_table
from schemas.errors import InputError
from stages.run_folder import RunFolder

log = logging.getLogger("sluice")


def run_recipe(
    recipe: Recipe,
    folder: Path | str,
    until: str | None = None,
    retry_failed: bool = False,
    out: Console | None = None,
    stream: bool = False,
) -> None:
    """Runs `recipe` into `folder` as a Prefect flow, and prints what came of it.

    Args:
        stream: trains the first step while the data still comes.

    Raises:
        SluiceError: the run failed and can be started again.
        InputError: recipe or input is wrong.
    """
    out = out or Console()
    stages_until(until, stream)
    check_streams(recipe) if stream else check_staged(recipe)
    line = Line(recipe, RunFolder(folder), retry_failed, stream)
    prepare(line)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from pipelines.flow import run_flow

    run_flow(line, until)
    print_results(line.run, out)


def train_recipe(recipe: Recipe, folder: Path | str, out: Console | None = None) -> None:
    """Runs the training steps of `recipe` on the shards in `folder`; plans are made anew where the recipe asks for it.

    Raises:
        SluiceError: training failed and can be started again.
        InputError: the recipe has no training steps, or the shards are not what its feed stage would write.
    """
    from stages.feed import ShardWork, write_plan

    if not recipe.train:
        raise InputError(f"recipe '{recipe.name}' has no training steps; add a train section")
    line = Line(recipe, RunFolder(folder))
    run, parts = line.run, line.run.parts()
    work = ShardWork(run, recipe.feed, recipe.model)
    missing = [part for part in parts if not work.done(part)]
    if missing or not parts:
        lack = f"{len(missing)} of {len(parts)} parts are missing or were fed with other settings"
        raise InputError(
            f"{folder}: {lack if parts else 'there are no shards'}; write them first, with this recipe: "
            f"sluice run RECIPE --run-dir {folder} --until feed"
        )
    prepare(line)
    for step in recipe.train:
        write_plan(run, step, recipe.feed, recipe.seed)
    train(line)
    if (table := loss_table(run)) is not None:
        (out or Console()).print(table)


def print_results(run: RunFolder, out: Console) -> None:
    """Prints the funnel, the losses, the evaluation, and where to look next, as far as the run has come."""
    out.print(funnel_table(run))
    for table in (loss_table(run), evaluation_table(run)):
        if table is not None:
            out.print(table)
    if run.path("report.html").exists():
        out.print(f"report: {run.path('report.html')}", soft_wrap=True, highlight=False)
    if question := example_question(run):
        out.print(f"try it: {question}", soft_wrap=True, highlight=False)


def example_question(run: RunFolder) -> str | None:
    """A `sluice ask` line about a held-out picture, to be pasted; None before the model is on this machine's disk."""
    if not run.is_local or not run.path("model", "config.json").exists():
        return None
    from stages.tar import read_members

    for shard in sorted(run.path("shards").glob("val-*.tar")):
        for _, data in read_members(shard, "jpg"):
            picture = run.path("example.jpg")
            picture.write_bytes(data)
            command = "sluice" if shutil.which("sluice") else ".venv/bin/sluice"
            model = os.path.relpath(run.path("model"))
            return f'{command} ask {model} {os.path.relpath(picture)} "How many objects are in the picture?"'
    return None
