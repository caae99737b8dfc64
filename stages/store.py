"""Files of a run on a local disk or in an object store: `pathlib.Path` there, universal_pathlib's `UPath` here.

Both have pathlib's methods; what they do not share is here. A put replaces an object in one step, as a rename does a
file, so no reader sees half of either. Endpoint and credentials are the store's own affair: S3's come from the
environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from schemas.errors import InputError, SluiceError

#: `s3://bucket/run`; also with one slash, which is what a `Path` leaves of it.
_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,3}(?=[^/])")


def open_path(name: str | Path) -> Path:
    """The path that `name` means: a `Path`, or a `UPath` where it names a store, for example `s3://bucket/run`.

    Raises:
        InputError: no store of that name is known or installed, or the address holds a password or a wildcard.
    """
    remote = _REMOTE.match(str(name))
    if remote is None:
        return Path(name)
    protocol, rest = remote[1].lower(), str(name)[remote.end() :]
    if protocol == "file":
        return Path("/", rest)
    if "@" in rest.partition("/")[0]:
        raise InputError(f"{protocol}://...: credentials stand in the environment, not in an address")
    if re.search(r"[*?[]", rest):
        raise InputError(f"{protocol}://{rest}: an address cannot hold *, ? or [, which stand for other letters there")
    # Others write there too, so listings are never kept.
    options = {"use_listings_cache": False, **client_options(protocol)}
    from upath import UPath

    try:
        path = UPath(f"{protocol}://{rest}", **options)
        path.fs  # noqa: B018  (imports the store's package)
    except (ValueError, ImportError) as error:
        raise InputError(f"{protocol}://{rest} cannot be opened: {error}") from error
    return cast(Path, path)


def client_options(protocol: str) -> dict[str, Any]:
    """What fsspec's client of a store needs to be told besides the recipe's options and the environment's."""
    if protocol not in ("s3", "s3a"):
        return {}
    # Stores other than Amazon's answer a range with the whole object's checksum, which cannot fit.
    return {"config_kwargs": {"response_checksum_validation": "when_required"}}


def is_local(path: Path) -> bool:
    return isinstance(path, Path)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees either the old content or all of the new.

    Raises:
        SluiceError: the folder cannot be written, the disk is full, or the store does not take it.
    """
    if not is_local(path):
        store, key = _store(path)
        with _put(path):
            store.pipe_file(key, data)
        return
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


def append(path: Path, text: str) -> None:
    """Adds `text` at a file's end. An object cannot grow: it is put again as a whole, so it must have one writer."""
    if is_local(path):
        with open(path, "a") as file:
            file.write(text)
    else:
        write_atomically(path, (path.read_text() + text).encode())


def move_in(file: Path, path: Path) -> None:
    """Moves a finished local file to `path`; where both are local, by a rename."""
    if is_local(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, path)
        return
    store, key = _store(path)
    with _put(path):
        store.put_file(str(file), key)
    file.unlink()


def read_parquet(path: Path, **options: Any) -> pa.Table:
    """`pq.read_table` with its options; of a remote file only what is asked for travels."""
    if is_local(path):
        return pq.read_table(path, **options)
    store, key = _store(path)
    with store.open(key, cache_type="none") as file:  # Arrow asks for whole columns; reading ahead fetches others
        return pq.read_table(file, **options)


def read_range(path: Path, offset: int, size: int) -> bytes:
    """At most `size` bytes from `offset` on, in one read. Safe to use from several threads."""
    if is_local(path):
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)
    store, key = _store(path)
    return store.cat_file(key, start=offset, end=offset + size)


def arrow_place(path: Path) -> tuple[str, pa.fs.FileSystem | None]:
    """`path` as Arrow and Ray take it: a place, and the file system it is in (None: the local one)."""
    if is_local(path):
        return str(path), None
    store, key = _store(path)
    return key, pa.fs.PyFileSystem(pa.fs.FSSpecHandler(store))


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A file as a local one: itself, or a copy that goes away at the end.

    Raises:
        FileNotFoundError: it is not there.
    """
    if is_local(path):
        yield path
        return
    store, key = _store(path)
    with TemporaryDirectory(prefix="sluice-") as temporary:
        copy = Path(temporary) / path.name
        store.get_file(key, str(copy))
        yield copy


@contextmanager
def local_folder(path: Path, last: str) -> Iterator[Path]:
    """A local folder to be made, which is at `path` at the end: `path` itself, or one whose files are put there then.

    Args:
        last: the file by which readers know that the folder is whole; it is put after all others.

    Raises:
        SluiceError: the store does not take it.
    """
    if is_local(path):
        yield path
        return
    with TemporaryDirectory(prefix="sluice-") as temporary:
        folder = Path(temporary) / path.name
        yield folder
        remove_folder(path, last)
        upload(folder, path, last)


def upload(folder: Path, path: Path, last: str | None = None) -> None:
    """Puts the files of a local folder under `path` in a store, the one named `last` at the end.

    Raises:
        SluiceError: the store does not take them.
    """
    store, key = _store(path)
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    first = [name for name in names if name != last]
    with _put(path):
        store.put([str(folder / name) for name in first], [f"{key}/{name}" for name in first])
        if last is not None:
            store.put_file(str(folder / last), f"{key}/{last}")


def remove_folder(path: Path, first: str | None = None) -> None:
    """Removes a folder that may be there; the file `first`, by which readers know it, goes before all others."""
    if first is not None:
        (path / first).unlink(missing_ok=True)
    if is_local(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    store, key = _store(path)
    with suppress(FileNotFoundError):
        store.rm(key, recursive=True)


def _store(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a remote path, and the path's name in it."""
    remote = cast(Any, path)
    return remote.fs, remote.path


@contextmanager
def _put(path: Path) -> Iterator[None]:
    """Every store has errors of its own; all of them come to this: it was not written."""
    try:
        yield
    except Exception as error:
        raise SluiceError(
            f"cannot write {path}: {error}; see that the store runs, that the bucket is there, and that the "
            "environment names its endpoint and credentials, then start again"
        ) from error
