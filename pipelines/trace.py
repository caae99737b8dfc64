"""`sluice trace`: all that happened to one sample, from its row to the optimizer steps that learned from it."""

from __future__ import annotations

import pyarrow.compute as pc
import pyarrow.dataset as ds
from rich.console import Console

from pipelines.recipe import Recipe, load_recipe
from schemas.errors import InputError
from schemas.vocabulary import Reason
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
    for row in rows:
        _show(run, recipe, row, out)


def _show(run: RunFolder, recipe: Recipe, row: dict, out: Console) -> None:
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


def _conversations(run: RunFolder, sample: str) -> list[dict]:
    if not any(run.path("conversations").glob("*.parquet")):
        return []
    return _dataset(run, "conversations").to_table(filter=ds.field("sample_id") == sample).to_pylist()


def _dataset(run: RunFolder, folder: str) -> ds.Dataset:
    place, system = arrow_place(run.path(folder))
    return ds.dataset(place, filesystem=system)
