"""Reads pictures that a source has already: files, or members of tars, here or in a remote store."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, BinaryIO, Self

from schemas.errors import InputError
from stages.source.places import STORE_ERRORS, open_store


class Pictures:
    """Reads pictures one after another. The tar read last stays open, so that rows in order cost one opening a tar.

    Not for several threads at once: each makes its own.

    Args:
        storage_options: as `source.storage_options` has them, for remote stores.
        most_bytes: a larger picture is refused before more of it is read; None for no limit.
    """

    def __init__(self, storage_options: Mapping[str, Any] | None = None, most_bytes: int | None = None) -> None:
        self._options = dict(storage_options or {})
        self._most_bytes = most_bytes
        self._file: BinaryIO | None = None
        self._name: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file that is open, if any; reading may go on afterwards."""
        if self._file is not None:
            self._file.close()
        self._file = self._name = None

    def read(self, file: str, offset: int | None = None, size: int | None = None) -> bytes:
        """The picture's bytes.

        Args:
            file: an absolute local path or an address that fsspec opens (`picture_file` in `schemas.tables.SOURCE`).
            offset: of the picture in the file, in bytes; None where it is the whole file.
            size: in bytes; needed with an offset.

        Raises:
            OSError: the file is not there, cannot be read, or ends before the picture does; with `errno.EFBIG` where
                the picture is larger than `most_bytes`.
        """
        most = self._most_bytes
        if most is not None and size is not None and size > most:
            raise OSError(errno.EFBIG, f"more than {most} bytes", file)
        try:
            data = self._whole(file) if offset is None else self._member(file, offset, size)
        except OSError:
            raise
        except (*STORE_ERRORS, InputError) as error:
            raise OSError(f"cannot read {file}: {error}") from error
        if offset is None and most is not None and len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most} bytes", file)
        return data

    def _whole(self, file: str) -> bytes:
        fs, path = open_store(file, self._options)
        if self._most_bytes is None:
            return fs.cat_file(path)
        return fs.cat_file(path, 0, self._most_bytes + 1)

    def _member(self, file: str, offset: int, size: int | None) -> bytes:
        if size is None:
            raise OSError(errno.EINVAL, "a picture inside a file needs its size", file)
        if self._file is None or self._name != file:
            self.close()
            fs, path = open_store(file, self._options)
            self._file, self._name = fs.open(path, "rb"), file
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) < size:
            raise OSError(f"{file} ends before byte {offset + size}")
        return data


def read_picture(
    file: str, offset: int | None = None, size: int | None = None, storage_options: Mapping[str, Any] | None = None
) -> bytes:
    """One picture's bytes; see `Pictures.read`, which is faster for many.

    Raises:
        OSError: it is not there or cannot be read whole.
    """
    with Pictures(storage_options) as pictures:
        return pictures.read(file, offset, size)
