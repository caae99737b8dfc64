"""Tar files whose bytes depend on their members alone, as WebDataset and img2dataset lay them out."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from schemas.errors import SluiceError

_BLOCK = tarfile.BLOCKSIZE


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """Packs `members` into a tar, in the order given, with no time, owner or other trace of the machine.

    Args:
        members: (name, content). Members of one WebDataset sample must stand side by side.

    Returns:
        The file's bytes, and for each name the (offset, size) in bytes of its content in the file. Each member's header
        is exactly the 512 bytes before its content.

    Raises:
        ValueError: a name is too long for a tar header (about 100 bytes), or stands there twice.
    """
    pieces: list[bytes] = []
    places: dict[str, tuple[int, int]] = {}
    position = 0
    for name, content in members:
        if name in places:
            raise ValueError(f"two members of one tar are named '{name}'")
        header = tarfile.TarInfo(name)
        header.size = len(content)
        padding = b"\0" * (-len(content) % _BLOCK)
        pieces += [header.tobuf(tarfile.USTAR_FORMAT), content, padding]
        places[name] = (position + _BLOCK, len(content))
        position += _BLOCK + len(content) + len(padding)
    end = 2 * _BLOCK
    pieces.append(b"\0" * (end + -(position + end) % tarfile.RECORDSIZE))
    return b"".join(pieces), places


def read_members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yields (key, content) of the members whose name ends on `suffix`, in file order.

    Args:
        path: a tar file.
        suffix: what follows the name's first dot, for example "jpg".

    Raises:
        SluiceError: the file is missing or is not a whole tar.
    """
    wanted = suffix.removeprefix(".")
    try:
        with path.open("rb") as whole, tarfile.open(fileobj=whole, mode="r:") as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if ending == wanted and (file := tar.extractfile(member)) is not None:
                    yield key, file.read()
    except (OSError, tarfile.TarError) as error:
        raise SluiceError(f"cannot read {path}: {error}; remove it and run the stage that writes it again") from error
