"""What earlier runs kept, so that what comes in new can be compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from models.clip import ClipSettings
from schemas.errors import InputError
from schemas.vocabulary import Stage, State
from stages.run_folder import WHOLE, RunFolder
from stages.store import read_parquet

_KEY = "select.dedup.against"
#: What of a CLIP model decides whether two runs' vectors can be compared.
_MODEL = ("model", "pretrained", "resize_mode", "train")


@dataclass(frozen=True)
class Earlier:
    """Samples that earlier runs kept.

    Attributes:
        samples: `sample_id` and the columns of `schemas.tables.SAMPLES` that were asked for.
        vectors: column `vector`, row for row; None where it was not asked for.
    """

    samples: pa.Table
    vectors: pa.Table | None


def read_earlier(
    run: RunFolder, names: Sequence[str], columns: Sequence[str], clip: ClipSettings | None
) -> Earlier | None:
    """What the runs in the folders `names` kept, in their order; None where none is named.

    Args:
        run: the run that asks.
        clip: the model whose vectors are wanted; None where none are.

    Raises:
        InputError: a folder is none of a run that has come through select, or is this run's own; a run was embedded
            by another model, or made by a Sluice that did not write a column yet.
    """
    found = [_read(run, RunFolder(name), columns, clip) for name in names]
    if not found:
        return None
    vectors = [part.vectors for part in found if part.vectors is not None]
    return Earlier(pa.concat_tables([part.samples for part in found]), pa.concat_tables(vectors) if vectors else None)


def earlier_digests(names: Sequence[str]) -> list[str | None]:
    """What `read_earlier` depends on."""
    runs = [RunFolder(name) for name in names]
    found = [run.output_digest(Stage.SELECT, WHOLE) for run in runs]
    for run in runs:
        found += run.map(lambda part, run=run: run.output_digest(Stage.EMBED, part), run.parts())  # type: ignore[misc]
    return found


def check_clip(run: RunFolder, clip: ClipSettings, key: str) -> None:
    """Sees that `run` was embedded by the model that `clip` names.

    Raises:
        InputError: by another, or by one that was trained in its own run; it names the recipe's `key`.
    """
    try:
        recipe = yaml.safe_load(run.path("recipe.yaml").read_text()) or {}
    except FileNotFoundError as error:
        raise InputError(f"{key}: {run.root} holds no recipe.yaml that says which CLIP model embedded it") from error
    told = (recipe.get("select") or {}).get("clip") or {}
    theirs = {name: told.get(name, ClipSettings().model_dump().get(name)) for name in _MODEL}
    asked = clip.model_dump(mode="json")
    ours = {name: asked.get(name) for name in _MODEL}
    if theirs != ours or ours["train"]:
        raise InputError(
            f"{key}: {run.root} was embedded by {_called(theirs)}, this run by {_called(ours)}, and vectors of two "
            "models cannot be compared; name the same model as select.clip in both recipes, or leave this run out"
        )


def _read(own: RunFolder, run: RunFolder, columns: Sequence[str], clip: ClipSettings | None) -> Earlier:
    if run.root == own.root:
        raise InputError(f"{_KEY}: {run.root} is this run's own folder; name other runs")
    path = run.path("decisions.parquet")
    if not path.exists():
        raise InputError(f"{_KEY}: {run.root} has no decisions.parquet; name the folder of a run that has ended")
    if clip is not None:
        check_clip(run, clip, _KEY)
    kept = read_parquet(path, columns=["sample_id", "part"], filters=[("state", "=", State.KEPT.value)])
    parts = run.parts()

    def of_part(part: int) -> tuple[pa.Table, pa.Table | None]:
        ids = kept.filter(pc.equal(kept["part"], part))["sample_id"].combine_chunks()
        samples = _rows(run.read_table("samples", [part], ["sample_id", *columns]), ids)
        if clip is None:
            return samples, None
        return samples, _rows(run.read_table("vectors", [part], ["sample_id", "vector"]), ids).select(["vector"])

    try:
        tables = run.map(of_part, parts)
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{_KEY}: {run.root} lacks what this run compares: {error}; start that run again with this Sluice"
        ) from error
    vectors = [table for _, table in tables if table is not None]
    return Earlier(pa.concat_tables([table for table, _ in tables]), pa.concat_tables(vectors) if vectors else None)


def _rows(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.take(pc.index_in(ids, table["sample_id"].combine_chunks()))


def _called(model: dict[str, Any]) -> str:
    more = [f"resize_mode {model['resize_mode']}"] if model["resize_mode"] else []
    more += ["trained in its run"] if model["train"] else []
    return f"{model['model']} ({', '.join([str(model['pretrained']), *more])})"
