"""The line: its stages in order, each a function of a recipe and a run folder. Prefect wraps them; Ray runs them."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines.progress import meter
from pipelines.recipe import Recipe, to_yaml
from schemas.errors import InputError
from schemas.vocabulary import Stage
from stages.graph import PartWork, Place, count_over_parts, run_parts
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.store import local_folder, read_parquet, write_atomically

if TYPE_CHECKING:
    from models.clip import ClipSettings
    from stages.select import SelectSettings

log = logging.getLogger("sluice")

Counts = dict[str, Any]


@dataclass
class Line:
    """One run of one recipe."""

    recipe: Recipe
    run: RunFolder
    retry_failed: bool = False
    streams: bool = False
    results: dict[str, Counts] = field(default_factory=dict)


def source(line: Line) -> Counts:
    """Cuts the source table into parts with ids."""
    from stages.source import write_parts

    return write_parts(line.run, line.recipe.source)


def filter_network(line: Line) -> Counts:
    """Trains the network that scores on trusted pairs, where the recipe asks for it."""
    from pipelines.filter_network import train_filter_network

    return {} if line.recipe.select.clip.train is None else train_filter_network(line)


def acquire(line: Line) -> Counts:
    """Downloads, decodes and resizes, and embeds with every CLIP model while the next part downloads."""
    from stages.acquire import acquire_place
    from stages.select import check_inputs

    run, recipe, retry = line.run, line.recipe, line.retry_failed
    check_inputs(recipe.select)
    places = [acquire_place(run, recipe.acquire, retry, recipe.source), *embed_places(run, recipe.select)]
    _stream("acquire", line, places)
    return dict(count_over_parts(run, "acquire", run.parts()))


def select(line: Line) -> Counts:
    """Decides on every row by its columns."""
    from stages.select import write_decisions
    from stages.select.filter_network import scoring_clip

    run, recipe = line.run, line.recipe
    settings = recipe.select.model_copy(update={"clip": scoring_clip(run, recipe.select.clip)})
    return write_decisions(run, settings, recipe.feed.holdout, recipe.seed)


def instruct(line: Line) -> Counts:
    """Makes conversations of the kept rows."""
    from stages.instruct import instruct_place

    run, recipe = line.run, line.recipe
    places = [instruct_place(run, recipe.instruct, recipe.seed, recipe.source.rows_per_part)]
    _stream("instruct", line, places)
    return dict(count_over_parts(run, "instruct", run.parts()))


def feed(line: Line) -> Counts:
    """Writes shards, and the plan of every training step."""
    from stages.feed import ShardWork, write_plan

    run, recipe = line.run, line.recipe
    places = [Place(lambda: ShardWork(run, recipe.feed, recipe.model), num_cpus=1, actors=recipe.feed.actors)]
    _stream("feed", line, places)
    counts: Counts = dict(count_over_parts(run, "feed", run.parts()))
    for step in recipe.train:
        for name, value in write_plan(run, step, recipe.feed, recipe.seed).items():
            counts[f"{step.name}_{name}"] = value
    return counts


def ledger(line: Line) -> Counts:
    """Writes the ledger and holds it against the law."""
    from stages.ledger import write_ledger

    return write_ledger(line.run)


def train(line: Line) -> Counts:
    """Trains the model, step by step; asks it after each one where the recipe says so."""
    from stages.evaluate import evaluate_step
    from stages.train.ray import run_training

    run, recipe = line.run, line.recipe
    if not recipe.train:
        return {}

    def on_step(done: int) -> None:
        if recipe.evaluate is not None and recipe.evaluate.every_step and done < len(recipe.train):
            evaluate_step(run, recipe, done)

    start_ray(recipe)
    return run_training(run, recipe, on_step=on_step)


def evaluate(line: Line) -> Counts:
    """Asks the trained model held-out questions, beside blind baselines."""
    from stages.evaluate import evaluate_run

    if line.recipe.evaluate is None or line.recipe.model is None:
        return {}
    return evaluate_run(line.run, line.recipe)


def export(line: Line) -> Counts:
    """Writes the trained model as a transformers folder."""
    from models.export import export_llava
    from models.full import build_model
    from stages.train.weights import load_trained, trained_digests

    run, recipe = line.run, line.recipe
    if recipe.model is None or not recipe.train:
        return {}
    steps = [step.name for step in recipe.train]
    key = work_key(Stage.EXPORT, 1, recipe.model.model_dump(mode="json"), trained_digests(run, steps))
    if not run.is_done(Stage.EXPORT, WHOLE, key) or not run.path("model", "config.json").exists():
        model, tokenizer = build_model(recipe.model, recipe.seed)
        load_trained(model, run, steps)
        with local_folder(run.path("model"), last="config.json") as folder:
            export_llava(model, tokenizer, recipe.model, folder)
            size = sum(file.stat().st_size for file in folder.iterdir())
        run.commit(Stage.EXPORT, WHOLE, key, {}, {"bytes": size})
    return (run.manifest(Stage.EXPORT, WHOLE) or {})["counts"]


def report(line: Line) -> Counts:
    """Writes RUN/report.html."""
    from pipelines.report import write_report

    return {"bytes": write_report(line.run)}


def stream(line: Line) -> Counts:
    """Sends part after part from acquire to the shards, and trains the first step on what is there."""
    from pipelines.stream import run_stream

    return run_stream(line)


StageFunction = Callable[[Line], Counts]

#: The stages in the order of the line. The ledger follows the stages that decide on rows.
STAGES: dict[str, StageFunction] = {
    Stage.SOURCE: source,
    "filter": filter_network,
    Stage.ACQUIRE: acquire,
    Stage.SELECT: select,
    Stage.INSTRUCT: instruct,
    Stage.FEED: feed,
    "ledger": ledger,
    Stage.TRAIN: train,
    Stage.EVALUATE: evaluate,
    Stage.EXPORT: export,
    Stage.REPORT: report,
}
#: The same where parts stream: the train stage is left with the steps after the first.
STREAM_STAGES: dict[str, StageFunction] = {
    Stage.SOURCE: source,
    "filter": filter_network,
    "stream": stream,
    **{name: STAGES[name] for name in list(STAGES)[list(STAGES).index("ledger") :]},
}
_DATA_STAGES = (Stage.SOURCE, "filter", Stage.ACQUIRE, Stage.SELECT, Stage.INSTRUCT, Stage.FEED, "stream")


def stages_until(until: str | None, streams: bool = False) -> list[tuple[str, StageFunction]]:
    """The stages up to and with `until`, always with the ledger, so that every run ends with the law checked.

    Args:
        streams: one stage, `stream`, stands for all from acquire to feed.

    Raises:
        InputError: there is no such stage.
    """
    stages = {str(name): function for name, function in (STREAM_STAGES if streams else STAGES).items()}
    if until is None:
        return list(stages.items())
    if until not in stages:
        raise InputError(f"--until {until}: no such stage; stages: {', '.join(stages)}")
    names = list(stages)
    chosen = names[: names.index(until) + 1]
    if until in _DATA_STAGES:
        chosen.append("ledger")
    return [(name, stages[name]) for name in chosen]


def prepare(line: Line) -> None:
    """Makes the run folder and writes the resolved recipe with the versions of what runs it."""
    names = (
        "sluice",
        "torch",
        "ray",
        "open_clip_torch",
        "transformers",
        "prefect",
        "pyarrow",
        "faiss-cpu",
        "webdataset",
    )
    versions = []
    for name in names:
        try:
            versions.append(f"# {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    text = "\n".join(["# resolved by sluice; every default is written out", *versions, to_yaml(line.recipe)])
    write_atomically(line.run.path("recipe.yaml"), text.encode())


def export_llava_json(run: RunFolder) -> Any:
    """Writes RUN/llava.json: every training conversation in LLaVA's form; pictures are named by their key.

    The pictures lie in the shards under those names: `tar -xf RUN/shards/train-000000.tar`. What is about no picture
    names none.

    Raises:
        InputError: there are no training shards.
    """
    from schemas.conversation import Conversation

    index = _keys(run)
    if not index:
        raise InputError(f"{run.root} has no training shards, whose keys name the pictures: feed.shards is "
                         "false, or the feed stage has not run")  # fmt: skip
    rows = run.read_table("conversations").to_pylist()
    records = [
        Conversation.from_row(row).to_llava(f"{index[row['sample_id']]}.jpg")
        for row in rows
        if row["sample_id"] in index
    ]
    path = run.path("llava.json")
    write_atomically(path, json.dumps(records, ensure_ascii=False, indent=1).encode())
    return path


def _keys(run: RunFolder) -> dict[str, str]:
    """sample_id -> key, for every sample in a training shard."""
    found: dict[str, str] = {}
    for path in sorted(run.path("shards").glob("train-*.index.parquet")):
        table = read_parquet(path, columns=["sample_id", "key"])
        found.update(zip(table["sample_id"].to_pylist(), table["key"].to_pylist(), strict=True))
    return found


def start_ray(recipe: Recipe) -> None:
    """Connects to the recipe's Ray, or starts a local one; does nothing where it runs already."""
    import ray

    if ray.is_initialized():
        return
    # Ray tells of its own affairs at every start; what goes wrong reaches us as an exception.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    settings = recipe.ray
    if settings.address:
        ray.init(settings.address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(num_cpus=settings.num_cpus, include_dashboard=False, log_to_driver=False,
                 logging_level=logging.ERROR, configure_logging=False)  # fmt: skip
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _stream(name: str, line: Line, places: list[Place]) -> None:
    """Sends the parts that are not done through `places`, with progress in rows."""
    run = line.run
    parts, rows = run.parts(), rows_of_parts(run)
    works: list[PartWork] = [place.make() for place in places]
    done = run.map(lambda part: all(work.done(part) for work in works), parts)
    waiting = [part for part, finished in zip(parts, done, strict=True) if not finished]
    with meter(name, sum(rows.values()), "rows") as progress:
        progress.skip(sum(rows[part] for part in parts if part not in waiting))
        if waiting:
            start_ray(line.recipe)
        for part in run_parts(places, waiting):
            progress.advance(rows[part])


def rows_of_parts(run: RunFolder) -> dict[int, int]:
    """How many rows of the source each part has."""
    parts = run.parts()
    manifests = run.map(lambda part: run.manifest("source", part) or {"counts": {"rows": 0}}, parts)
    return {part: found["counts"]["rows"] for part, found in zip(parts, manifests, strict=True)}


def embed_places(run: RunFolder, select: SelectSettings, others: int = 0) -> list[Place]:
    """The places of the CLIP models, one after the other: that of `select.clip`, then those of `select.models`.

    Args:
        others: workers that want a share of a GPU at the same time.
    """
    from stages.embed import EmbedWork
    from stages.select.filter_network import scoring_clip

    def place(name: str, clip: ClipSettings) -> Place:
        def make() -> EmbedWork:
            return EmbedWork(run, clip if name else scoring_clip(run, select.clip), name=name)

        # However many the models are, they hold no more CPUs than one would.
        return Place(make, num_cpus=1 / len(clips), actors=clip.actors, num_gpus=share)

    clips = {"": select.clip, **select.models}
    share = gpu_share(others + sum(clip.actors for clip in clips.values()))
    return [place(name, clip) for name, clip in clips.items()]


def gpu_share(actors: int) -> float:
    """What part of a GPU each of `actors` gets, so that all of them find room; none where there is no GPU."""
    import torch

    gpus = torch.cuda.device_count()
    return 1 / -(-actors // gpus) if gpus else 0.0
