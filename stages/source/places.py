"""Where a source lies: files and folders on this machine or in a store that fsspec reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from tarfile import TarError
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import aiohttp
import pyarrow as pa
from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem
from fsspec.core import has_magic, url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from schemas.errors import InputError
from schemas.identity import digest, digest_file
from stages.store import client_options

#: What the clients of the stores raise where something is not there or does not answer; ValueError comes of a web
#: server that sends no ranges.
STORE_ERRORS = (OSError, ValueError, aiohttp.ClientError, BotoCoreError, ClientError)

_WEB = ("http://", "https://")
_CHECKSUMS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest")


@dataclass(frozen=True)
class Place:
    """A file or folder.

    Attributes:
        path: as `fs` names it.
        name: the path from the source's folder (or from the part of a glob before its first wildcard), with slashes:
            it does not change when the source is moved.
        size: bytes; None where the store does not say.
        checksum: the store's own (an ETag); None for local files, and where the store gives none.
    """

    fs: AbstractFileSystem
    path: str
    name: str
    size: int | None = None
    checksum: str | None = None
    folder: bool = False

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def location(self) -> str:
        """The absolute local path, or the address that fsspec opens."""
        return self.path if self.local else str(self.fs.unstrip_protocol(self.path))

    @cached_property
    def suffix(self) -> str:
        """The name's last suffix in small letters, with its dot."""
        path = self.path if self.local else urlsplit(self.location).path
        return PurePosixPath(path).suffix.lower()

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, open for reading.

        Raises:
            InputError: it cannot be opened, or what is read from it within the `with` is broken.
        """
        with self.explained(), self.fs.open(self.path, "rb") as file:
            yield file

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns errors of stores and of pyarrow into an `InputError` that names the place."""
        try:
            yield
        except (pa.ArrowException, TarError, *STORE_ERRORS) as error:
            raise InputError(f"source.table: cannot read {self.location}: {_said(error)}") from error

    def first_sign(self) -> bytes:
        """The file's first byte that is no white space, of its first thousand."""
        with self.open() as file:
            return file.read(1000).lstrip()[:1]

    def digest(self) -> str:
        """Of a local file's content; of a remote file's name, size and checksum, which cost no download."""
        if not self.local:
            return self.facts()
        with self.explained():
            return digest_file(self.path)

    def facts(self) -> str:
        """A digest of name, size and the store's checksum: never of times, which a copy changes."""
        return digest([self.name, self.size, self.checksum])

    def entries(self) -> Iterator[Place]:
        """The files in a folder, all the way down, in any order. Hidden ones are passed over; links to folders too."""
        waiting = [self.path]
        while waiting:
            for each in self._list(waiting.pop()):
                if each.folder:
                    waiting.append(each.path)
                else:
                    yield each

    def top_suffixes(self) -> set[str]:
        """Suffixes of the files directly in the folder."""
        return {each.suffix for each in self._list(self.path) if not each.folder}

    def files(self) -> list[Place]:
        """The files in a folder, all the way down, by name. The listing is held in memory, nothing else is."""
        return sorted(self.entries(), key=lambda place: place.name)

    def _list(self, folder: str) -> list[Place]:
        """What lies directly in a folder under this one. `fs.walk` would pass over folders that cannot be read."""
        if folder.startswith(_WEB) and not folder.endswith("/"):
            folder += "/"
        with self.explained():
            infos = self.fs.ls(folder, detail=True)
        # A store may list the folder itself, and a web page may link to other pages and to views of this one.
        names = [(str(info["name"]).rstrip("/"), info) for info in infos]
        inside = [
            _place(self.fs, info, self.path, info["type"] == "directory")
            for name, info in names
            if name.startswith(folder) and name != folder.rstrip("/") and not (name.startswith(_WEB) and "?" in name)
        ]
        return [place for place in inside if not PurePosixPath(place.name).name.startswith(".")]

    def read_many(self, places: list[Place]) -> list[bytes | None]:
        """The contents of small files of one store, read side by side where it is remote; None for an unreadable one.

        Raises:
            InputError: the store itself fails.
        """
        with self.explained():
            paths = [place.path for place in places]
            contents = self.fs.cat_ranges(paths, None, None, on_error="return") if paths else []
        return [content if isinstance(content, bytes) else None for content in contents]


def find_places(table: str | list[str], options: Mapping[str, Any]) -> list[Place]:
    """The files and folders that `source.table` names: a list's in its order, a glob's by name.

    Raises:
        InputError: nothing fits a glob, or a store is unknown, has no driver, or does not answer.
    """
    names = [table] if isinstance(table, str) else table
    places = [place for name in names for place in _find(name, options)]
    if not places:
        raise InputError("source.table: the list is empty")
    return places


def open_store(name: str, options: Mapping[str, Any], key: str = "table") -> tuple[AbstractFileSystem, str]:
    """The file system that holds `name`, and its path there. `options` are for remote stores only.

    Raises:
        InputError: fsspec does not know the store; the message begins with `source.<key>`.
    """
    protocol = get_protocol(name)
    try:
        if protocol in ("file", "local"):
            return url_to_fs(name)
        return url_to_fs(name, **{**client_options(protocol), **options})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(f"source.{key}: cannot open {name}: {error}") from error


def _find(name: str, options: Mapping[str, Any]) -> list[Place]:
    fs, path = open_store(name, options)
    fs.invalidate_cache()
    place = Place(fs, path, PurePosixPath(path).name)
    with place.explained():
        # In an address of the web, ? begins a query.
        if ("*" in path if path.startswith(_WEB) else has_magic(path)) and not fs.exists(path):
            found = fs.glob(path, detail=True)
            if not found:
                raise InputError(f"source.table: no file fits {name}")
            root = path[: min(path.find(sign) for sign in "*?[" if sign in path)].rpartition("/")[0]
            return [_place(fs, found[one], root, fs.isdir(one)) for one in sorted(found)]
        try:
            return [_place(fs, fs.info(path), _parent(path), fs.isdir(path))]
        except FileNotFoundError:
            return [place]  # whoever opens it says so


def _place(fs: AbstractFileSystem, info: Mapping[str, Any], root: str, folder: bool = False) -> Place:
    path = str(info["name"])
    named = path.partition("?")[0] if path.startswith(_WEB) else path
    checksum = next((str(info[key]) for key in _CHECKSUMS if info.get(key)), None)
    return Place(fs, path, named.removeprefix(root).lstrip("/"), info.get("size"), checksum, folder)


def _parent(path: str) -> str:
    return path.rstrip("/").rpartition("/")[0]


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
