"""Reads select's word on the rows of one part, be it decided on by itself, in a stream, or with all others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from schemas.vocabulary import Stage, State
from stages.run_folder import RunFolder
from stages.store import read_parquet


def streamed(run: RunFolder, part: int) -> bool:
    """Whether select decided on the part against those before it, in a stream, and not on all parts at once."""
    return run.manifest(Stage.SELECT, part) is not None


def stream_file(name: str, part: int) -> str:
    """Where in the run folder a stream's select writes a part's share of NAME.parquet."""
    return f"select/{name}/{part:05d}.parquet"


def select_file(run: RunFolder, name: str, part: int) -> Path:
    """The file in which the part's rows of NAME.parquet stand; in a staged run with those of all parts."""
    return run.path(stream_file(name, part)) if streamed(run, part) else run.path(f"{name}.parquet")


def read_decisions(run: RunFolder, part: int, columns: list[str], kept: bool = False) -> pa.Table:
    """The part's rows of `schemas.tables.DECISIONS`.

    Args:
        kept: only those of rows that are kept.

    Raises:
        FileNotFoundError: nothing is decided yet.
    """
    wanted = [("part", "=", part), *([("state", "=", State.KEPT.value)] if kept else [])]
    return read_parquet(select_file(run, "decisions", part), columns=columns, filters=wanted)
