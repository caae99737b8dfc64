"""The run folder: where everything lies, and how a part's output is committed so that no kill can spoil it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import SluiceError
from schemas.identity import digest, digest_bytes, digest_file
from stages.store import is_local, move_in, open_path, read_parquet, write_atomically

#: The commit name of a stage's output that is one for all parts.
WHOLE = "all"

A = TypeVar("A")
B = TypeVar("B")

#: What a remote run reads at once.
_AT_ONCE = 16


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run. `root` is a local folder, or one in a store, for example `RunFolder("s3://bucket/run")`.

    Raises:
        InputError: `root` is in a store that cannot be opened (see `stages.store.open_path`).
    """

    root: Path

    def __init__(self, root: Path | str) -> None:
        path = open_path(root)
        object.__setattr__(self, "root", path.absolute() if is_local(path) else path)

    @property
    def is_local(self) -> bool:
        return is_local(self.root)

    def path(self, *names: str) -> Path:
        """A path in the run folder; of a remote one a `UPath`, which has pathlib's methods."""
        return self.root.joinpath(*names)

    def local_path(self, *names: str) -> Path:
        """Where one machine keeps what only it needs: in a local run folder, else in a folder of the user's cache."""
        if self.is_local:
            return self.path(*names)
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache, "sluice", digest(str(self.root)), *names)

    def map(self, function: Callable[[A], B], items: Iterable[A]) -> list[B]:
        """`function` of each item, in their order; in a remote run many at once, for there each takes round trips."""
        if self.is_local:
            return [function(item) for item in items]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(function, items))

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
        paths = [self.table_path(folder, part) for part in parts]
        return pa.concat_tables(self.map(lambda path: read_parquet(path, columns=columns), paths))

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
        """Puts a part's files in place, each by a rename or a put, and the manifest last.

        Args:
            key: what the output depends on (see `work_key`).
            outputs: path in the run folder -> bytes, a table (written as Parquet), or a finished temporary file, made
                under `local_path`, which is moved.
            counts: rows by reason or by outcome, for the funnel.
            more: further JSON-able entries for the manifest (settings, versions).
        """
        digests: dict[str, str] = {}
        for name, content in outputs.items():
            target = self.path(name)
            if isinstance(content, Path):
                digests[name] = digest_file(content)
                move_in(content, target)
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
