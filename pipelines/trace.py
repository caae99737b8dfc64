"""`sluice trace`: all that happened to one sample, from its row to the optimizer steps that learned from it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Console

from pipelines.recipe import Recipe, load_recipe
from schemas.errors import InputError
from schemas.vocabulary import Reason, Stage
from stages.run_folder import RunFolder
from stages.store import arrow_place, read_parquet


def show_trace(run: RunFolder, key: str, out: Console) -> None:
    """Prints the life of the sample or samples that `key` names.

    Args:
        key: a sample_id, its first letters (6 at least), or a URL.

    Raises:
        InputError: no source row has that key.
    """
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
            say("kept instead", row["duplicate_of"])
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
