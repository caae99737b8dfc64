"""What earlier runs kept, so that what comes in new can be compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from models.clip import ClipSettings
from schemas.errors import InputError
from schemas.vocabulary import Stage, State
from stages.embed import EmbedWork
from stages.run_folder import WHOLE, RunFolder
from stages.store import read_parquet

_KEY = "select.dedup.against"


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
        InputError: a folder is this run's own; a run was embedded by another model, or made by a Sluice that did not
            write a column yet.
    """
    found = [_read(run, RunFolder(name), columns, clip) for name in names]
    if not found:
        return None
    return join_earlier(found)


def earlier_digests(names: Sequence[str]) -> list[str | None]:
    """What `read_earlier` depends on.

    Raises:
        InputError: a folder is none of a run that has come through select.
    """
    runs = [RunFolder(name) for name in names]
    found = [run.output_digest(Stage.SELECT, WHOLE) for run in runs]
    for run, selected in zip(runs, found, strict=True):
        if selected is None:
            raise InputError(f"{_KEY}: {run.root} has not come through select; name the folder of a run that has ended")
    for run in runs:
        found += run.map(lambda part, run=run: run.output_digest(Stage.EMBED, part), run.parts())  # type: ignore[misc]
    return found


def check_clip(run: RunFolder, clip: ClipSettings, key: str) -> None:
    """Sees that all of `run` was embedded by the very model that `clip` names, with the same settings.

    Raises:
        InputError: it was not; the message names the recipe's `key`.
    """
    work = EmbedWork(run, clip)
    if not all(run.map(work.done, run.parts())):
        raise InputError(
            f"{key}: {run.root} is not embedded by this run's CLIP model, {clip.model} ({clip.pretrained}), with the "
            "same settings, and vectors of two models cannot be compared; give both recipes the same select.clip, or "
            "leave that run out"
        )


def _read(own: RunFolder, run: RunFolder, columns: Sequence[str], clip: ClipSettings | None) -> Earlier:
    if run.root == own.root:
        raise InputError(f"{_KEY}: {run.root} is this run's own folder; name other runs")
    if clip is not None:
        check_clip(run, clip, _KEY)
    kept = [("state", "=", State.KEPT.value)]
    decisions = read_parquet(run.path("decisions.parquet"), columns=["sample_id", "part"], filters=kept)
    parts = run.parts()

    def of_part(part: int) -> Earlier:
        ids = decisions.filter(pc.equal(decisions["part"], part))["sample_id"].combine_chunks()
        return read_kept(run, part, ids, columns, with_vectors=clip is not None)

    try:
        return join_earlier(run.map(of_part, parts))
    except (FileNotFoundError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{_KEY}: {run.root} lacks what this run compares: {error}; start that run again with this Sluice"
        ) from error


def read_kept(run: RunFolder, part: int, ids: pa.Array, columns: Sequence[str], with_vectors: bool) -> Earlier:
    """Of the samples `ids` of a part those with a picture, in their order, with `columns`."""
    samples = _rows(run.read_table("samples", [part], ["sample_id", *{"phash", *columns}]), ids)
    samples = samples.filter(pc.is_valid(samples["phash"]))  # what is about no picture is like none
    if not with_vectors:
        return Earlier(samples, None)
    vectors = run.read_table("vectors", [part], ["sample_id", "vector"])
    return Earlier(samples, _rows(vectors, samples["sample_id"].combine_chunks()).select(["vector"]))


def join_earlier(found: Sequence[Earlier]) -> Earlier:
    """One after the other; at least one."""
    vectors = [one.vectors for one in found if one.vectors is not None]
    return Earlier(pa.concat_tables([one.samples for one in found]), pa.concat_tables(vectors) if vectors else None)


def _rows(table: pa.Table, ids: pa.Array) -> pa.Table:
    return table.take(pc.index_in(ids, table["sample_id"].combine_chunks()))
