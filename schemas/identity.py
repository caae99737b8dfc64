"""Names that are the same in every run: sample ids and content digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def sample_id(url: str, caption: str, repeat: int = 0) -> str:
    """Returns the 32-hex-digit (128-bit) id of a source row.

    Args:
        url: as given in the source table.
        caption: as given in the source table.
        repeat: 0 for the first row with this url and caption, 1 for the second, and so on.
    """
    text = json.dumps([url, caption, repeat], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def digest(value: Any) -> str:
    """Returns a 32-hex-digit digest of a JSON-able value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return digest_bytes(text.encode("utf-8", "surrogatepass"))


def digest_bytes(data: bytes) -> str:
    """Returns a 32-hex-digit (128-bit BLAKE2b) digest of `data`."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def digest_file(path: Path | str) -> str:
    """Returns the 32-hex-digit digest of a file's content, read in pieces of 1 MiB."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()
