"""The run folder: where everything lies, and how a part's output is committed so that no kill can spoil it."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import InputError, SluiceError
from schemas.identity import digest, digest_bytes, digest_file

#: The commit name of a stage's output that is one for all parts.
WHOLE = "all"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. `root` is a local folder.

    Raises:
        InputError: `root` names a remote store; only local folders are built so far.
    """

    root: Path

    def __post_init__(self) -> None:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(self.root)):  # a Path has lost the second slash
            raise InputError(f"run folder {self.root}: only local folders can hold a run in this version")
        object.__setattr__(self, "root", Path(self.root).absolute())

    def path(self, *names: str) -> Path:
        return self.root.joinpath(*names)

    def table_path(self, folder: str, part: int) -> Path:
        """For example `samples/00003.parquet`."""
        return self.root / folder / f"{part:05d}.parquet"

    def parts(self) -> list[int]:
        """Numbers of the parts that the source table was cut into."""
        return sorted(int(path.stem) for path in self.path("source").glob("[0-9]*.parquet"))

    def read_table(self, folder: str, parts: list[int] | None = None, columns: list[str] | None = None) -> pa.Table:
        """One stage's table over `parts` (all that exist, where None), in the order of the parts."""
        if parts is None:
            parts = sorted(int(path.stem) for path in self.path(folder).glob("[0-9]*.parquet"))
        if not parts:
            raise SluiceError(f"{self.path(folder)} holds no tables yet: run the stages before this one first")
        return pa.concat_tables([pq.read_table(self.table_path(folder, part), columns=columns) for part in parts])

    def manifest(self, stage: str, part: int | str) -> dict[str, Any] | None:
        """The manifest of a committed output, or None where there is none that can be read."""
        try:
            return json.loads(self._manifest_path(stage, part).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def output_digest(self, stage: str, part: int | str) -> str | None:
        """A digest of what `stage` committed for `part`; None where it is not committed."""
        manifest = self.manifest(stage, part)
        return None if manifest is None else digest(manifest["outputs"])

    def is_done(self, stage: str, part: int | str, key: str) -> bool:
        """Whether `part` was committed under the same `key` (see `work_key`) and its files are still there."""
        manifest = self.manifest(stage, part)
        if manifest is None or manifest["key"] != key:
            return False
        return all(self.path(name).exists() for name in manifest["outputs"])

    def commit(
        self,
        stage: str,
        part: int | str,
        key: str,
        outputs: Mapping[str, bytes | pa.Table | Path],
        counts: Mapping[str, int],
        **more: Any,
    ) -> None:
        """Puts a part's files in place, each by a rename, and the manifest last.

        Args:
            key: what the output depends on (see `work_key`).
            outputs: path in the run folder -> bytes, a table (written as Parquet), or a finished temporary file
                in the same file system, which is moved.
            counts: rows by reason or by outcome, for the funnel.
            more: further JSON-able entries for the manifest (settings, versions).
        """
        digests: dict[str, str] = {}
        for name, content in outputs.items():
            target = self.path(name)
            if isinstance(content, Path):
                digests[name] = digest_file(content)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(content, target)
            else:
                data = parquet_bytes(content) if isinstance(content, pa.Table) else content
                digests[name] = digest_bytes(data)
                write_atomically(target, data)
        manifest = {"stage": stage, "part": part, "key": key, "counts": dict(counts), "outputs": digests, **more}
        text = json.dumps(manifest, indent=1, sort_keys=True)
        write_atomically(self._manifest_path(stage, part), text.encode())

    def _manifest_path(self, stage: str, part: int | str) -> Path:
        name = f"{part:05d}" if isinstance(part, int) else part
        return self.root / "manifests" / stage / f"{name}.json"


def work_key(stage: str, version: int, settings: Any, inputs: list[str | None]) -> str:
    """What a part's output depends on: the stage, its version, its section of the recipe, and its inputs' digests."""
    return digest([stage, version, settings, inputs])


def parquet_bytes(table: pa.Table) -> bytes:
    """`table` as Parquet bytes that depend on its rows alone."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd")
    return sink.getvalue()


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees either the old content or all of the new.

    Raises:
        SluiceError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SluiceError(
            f"cannot write {path}: {error.strerror}; free some room or choose another --run-dir"
        ) from error
