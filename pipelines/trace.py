"""`sluice trace`: all that happened to one sample, from its row to the optimizer steps that learned from it.

Or the other way round: the packs and samples of one optimizer step.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Console

from pipelines.recipe import Recipe, load_recipe
from schemas.errors import InputError
from schemas.vocabulary import DedupRule, Reason, Stage
from stages.feed.plan import plan_file
from stages.run_folder import RunFolder
from stages.store import arrow_place, read_parquet
from stages.train.settings import TrainStep

#: For example `instruct:120`.
_STEP = re.compile(r"([a-z0-9][a-z0-9_.-]*):([0-9]+)")


def show_trace(run: RunFolder, key: str, out: Console) -> None:
    """Prints the life of the sample or samples that `key` names, or what an optimizer step learned from.

    Args:
        key: a sample_id, its first letters (6 at least), a URL, or a training step's name, a colon and the number of an
            optimizer step, from 1, as logs count them.

    Raises:
        InputError: no source row has that key, or there is no such step.
    """
    if (asked := _STEP.fullmatch(key)) is not None:
        return _show_step(run, load_recipe(run.path("recipe.yaml")), asked[1], int(asked[2]), out)
    if not any(run.path("ledger").glob("*.parquet")):
        raise InputError(f"{run.root} has no ledger yet: `sluice run` writes it after the data stages")
    data = _dataset(run, "ledger")
    wanted = ds.field("url") == key
    if len(key) >= 6 and all(letter in "0123456789abcdef" for letter in key):
        wanted = pc.starts_with(ds.field("sample_id"), key)
    rows = data.to_table(filter=wanted).to_pylist()
    if not rows:
        raise InputError(f"no row of the ledger has the sample_id or URL '{key}'")
    recipe = load_recipe(run.path("recipe.yaml"))
    path = run.path("select.json")
    thresholds = json.loads(path.read_text()).get("thresholds", []) if path.exists() else []
    for row in rows:
        _show(run, recipe, thresholds, row, out)


def _show_step(run: RunFolder, recipe: Recipe, name: str, number: int, out: Console) -> None:
    """Prints the packs of one optimizer step, each with its samples in their order."""
    step = next((step for step in recipe.train if step.name == name), None)
    if step is None:
        known = ", ".join(step.name for step in recipe.train) or "none"
        raise InputError(f"{run.root} has no training step '{name}'; its steps: {known}")
    path = run.path(plan_file(name))
    if not path.exists():
        raise InputError(f"{run.root} has no plan of step '{name}' yet: run the feed stage first")
    steps = _optimizer_steps(run, step)
    if not 1 <= number <= steps:
        raise InputError(f"step '{name}' has {steps} optimizer steps, numbered from 1; there is no {number}")
    begin = (number - 1) * step.global_packs
    wanted = [("pack", ">=", begin), ("pack", "<", begin + step.global_packs)]
    rows = read_parquet(path, filters=wanted).to_pylist()
    urls = _urls(run, {row["sample_id"] for row in rows})
    tokens, supervised = (sum(row[column] for row in rows) for column in ("length", "supervised"))
    packs = [list(found) for _, found in itertools.groupby(rows, lambda row: row["pack"])]
    say = partial(out.print, highlight=False, markup=False, soft_wrap=True)
    say(f"train {name}, optimizer step {number} of {steps}: {len(packs)} packs, {len(rows)} conversations, "
        f"{tokens} tokens, {supervised} supervised")  # fmt: skip
    for pack in packs:
        say(f"pack {pack[0]['pack']}, {sum(row['length'] for row in pack)} tokens")
        for row in pack:
            say(f"  {row['position']:>3}  {row['length']:>5} tokens  {row['source']}, epoch {row['epoch']}  "
                f"{row['conversation_id']}  {urls.get(row['sample_id'], '')}")  # fmt: skip


def _optimizer_steps(run: RunFolder, step: TrainStep) -> int:
    packs = (run.manifest("plan", step.name) or {})["counts"]["packs"]
    every = -(-packs // step.global_packs)
    return every if step.max_steps is None else min(every, step.max_steps)


def _urls(run: RunFolder, samples: set[str]) -> dict[str, str]:
    wanted = ds.field("sample_id").isin(sorted(samples))
    found = _dataset(run, "source").to_table(columns=["sample_id", "url"], filter=wanted)
    return dict(zip(found["sample_id"].to_pylist(), found["url"].to_pylist(), strict=True))


def _show(run: RunFolder, recipe: Recipe, thresholds: list[dict[str, Any]], row: dict, out: Console) -> None:
    def say(name: str, text: object) -> None:
        out.print(f"{name:>14}  {text}", highlight=False, markup=False, soft_wrap=True)

    say("sample_id", row["sample_id"])
    say("source", f"row {row['row']}, {row['url']}")
    say("caption", row["caption"])
    if row["http_status"] is not None or row["image_sha256"]:
        size = f", {row['width']} x {row['height']} pixels" if row["width"] else ""
        say("acquire", f"status {row['http_status']}{size}, sha256 {row['image_sha256'] or 'none'}")
    if row["clip_score"] is not None:
        say("clip score", f"{row['clip_score']:.4f}")
    for line in _met(run, thresholds, row):
        say("select", line)
    for masked in _rows(run, "masked.parquet", row["sample_id"]):
        say("masked", masked["caption"])
    if row["state"] == "dropped":
        say("dropped", f"by {row['stage']}: {row['reason']} ({Reason(row['reason']).info.text})")
        if row["duplicate_of"]:
            by_order = " (its part, or one before it in the stream)" if row["dedup"] == DedupRule.EARLIER else ""
            say("kept instead", f"{row['duplicate_of']}{by_order}")
        return
    say("kept", f"split {row['split']}, shard {row['shard']} at byte {row['shard_offset']}")
    for conversation in _conversations(run, row["sample_id"]):
        by = conversation["model"] or "a template"
        say("conversation", f"{conversation['conversation_id']} by {by}, {len(conversation['turns'])} turns")
    for step in recipe.train:
        path = run.path("plan", f"{step.name}.parquet")
        if not path.exists():
            continue
        plan = read_parquet(path, filters=[("sample_id", "=", row["sample_id"])])
        for entry in plan.to_pylist():
            number = entry["pack"] // step.global_packs
            say(f"train {step.name}", f"pack {entry['pack']}, place {entry['position']}, epoch {entry['epoch']}, "
                f"optimizer step {number + 1}, {entry['length']} tokens ({entry['conversation_id']})")  # fmt: skip


def _met(run: RunFolder, thresholds: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
    """Each threshold of select that the row came to, with what the row measured, up to the one that dropped it."""
    reason = Reason(row["reason"]) if row["reason"] else None
    stages = list(Stage)
    if reason is Reason.BAD_VECTOR or (reason and stages.index(reason.info.stage) < stages.index(Stage.SELECT)):
        return []
    if reason in (Reason.CONTAMINATED_PICTURE, Reason.CONTAMINATED_TEXT):  # decontamination follows the rules
        thresholds = [asked for asked in thresholds if asked["name"].startswith("rules.")]
    measured = next(iter(_rows(run, "scores.parquet", row["sample_id"])), {})
    lines = []
    for asked in thresholds:
        value = measured.get(asked["measure"])
        if value is None:
            continue
        at_least = asked["keeps"] == "at_least"
        bound = float(np.float32(asked["value"]))  # compared in float32, as select did
        kept = value >= bound if at_least else value <= bound
        lines.append(f"{asked['measure']} {_figure(value)} {'>=' if at_least else '<='} {_figure(bound)} "
                     f"{'kept' if kept else 'dropped'} ({asked['name']})")  # fmt: skip
        if not kept:
            break
    return lines


def _figure(value: float) -> str:
    return f"{value:.0f}" if math.isclose(value, round(value)) and abs(value) > 1 else f"{value:.4f}"


def _rows(run: RunFolder, name: str, sample: str) -> list[dict[str, Any]]:
    path = run.path(name)
    return read_parquet(path, filters=[("sample_id", "=", sample)]).to_pylist() if path.exists() else []


def _conversations(run: RunFolder, sample: str) -> list[dict]:
    if not any(run.path("conversations").glob("*.parquet")):
        return []
    return _dataset(run, "conversations").to_table(filter=ds.field("sample_id") == sample).to_pylist()


def _dataset(run: RunFolder, folder: str) -> ds.Dataset:
    place, system = arrow_place(run.path(folder))
    return ds.dataset(place, filesystem=system)
