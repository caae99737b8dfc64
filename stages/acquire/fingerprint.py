"""What tells a picture again: short numbers by which select finds copies without looking at a pixel."""

from __future__ import annotations

from dataclasses import dataclass

import imagehash
from PIL import Image

_HASHED = (32, 32)


@dataclass(frozen=True)
class Fingerprint:
    """Columns of `schemas.tables.SAMPLES`, by their names."""

    phash: str  # 64 bits, 16 hex digits


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The fingerprint of an upright RGB picture, as it is before it is encoded."""
    # In two steps, for a Lanczos resize of the whole would take longer than all the rest of the hash.
    small = picture.convert("L").resize(_HASHED, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return Fingerprint(str(imagehash.phash(small)))
