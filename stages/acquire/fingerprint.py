"""What tells a picture again: short numbers by which select finds copies without looking at a pixel."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from schemas.tables import THUMBNAIL_CHROMA_PX, THUMBNAIL_LUMA_PX

#: The part of each side that the hashed centre crop keeps.
CROP = 0.9

_HASH_SIDE = 8
_MIDDLE = _HASH_SIDE**2 // 2
#: A picture is brought to at least so many pixels a side by whole factors before anything else is done.
_LEAST_SIDE = 64


@dataclass(frozen=True)
class Fingerprint:
    """Columns of `schemas.tables.SAMPLES`, by their names."""

    phash: str  # 64 bits, 16 hex digits
    phash_variants: list[int]  # 64 bits each: mirrored left to right, the centre crop, the centre crop mirrored
    thumbnail: bytes  # luma of the picture, luma of the centre crop, blue and red chroma of the picture; row by row


def fingerprint(picture: Image.Image) -> Fingerprint:
    """The fingerprint of an upright RGB picture, as it is before it is encoded.

    The pHash is the one of imagehash (signs of the 8 x 8 lowest frequencies against their median; Zauner 2010, section
    3.2.1), taken of means over whole pixels in place of a Lanczos resize to 32 x 32; they differ in few bits. All else
    comes from the same means, by products with small matrices.
    """
    least = max(picture.width, _LEAST_SIDE), max(picture.height, _LEAST_SIDE)
    if least != picture.size:
        picture = picture.resize(least, Image.Resampling.BOX)
    factors = picture.width // _LEAST_SIDE, picture.height // _LEAST_SIDE
    small = picture.reduce(factors)
    across, down = (_views(side / factor) for side, factor in zip(picture.size, factors, strict=True))
    seen = down @ np.asarray(small.convert("L"), np.float32) @ across.T
    whole, crop, hashed, hashed_crop = (seen[part, part] for part in _PARTS)
    phash, *variants = _bits(np.stack([hashed, hashed * _MIRRORED, hashed_crop, hashed_crop * _MIRRORED]))
    luma = np.rint(np.stack([whole, crop])).astype(np.uint8)
    coarse = small.resize((THUMBNAIL_CHROMA_PX, THUMBNAIL_CHROMA_PX), Image.Resampling.BOX).convert("YCbCr")
    chroma = np.asarray(coarse)[:, :, 1:].transpose(2, 0, 1)
    return Fingerprint(f"{phash:016x}", variants, luma.tobytes() + chroma.tobytes())


def pixels_sha256(pixels: np.ndarray) -> str:
    """Digest of a picture's shape and pixels, 64 hex digits: the same for files that decode to the same.

    Args:
        pixels: uint8 [height, width, 3].
    """
    digest = hashlib.sha256(np.array(pixels.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _bits(frequencies: np.ndarray) -> list[int]:
    """[n, 8, 8] -> n numbers of 64 bits; the first frequency is the highest bit."""
    # Rounded, so that what is plain has no frequency but the first, whatever the order of its sums.
    flat = frequencies.reshape(len(frequencies), -1).round(2)
    middle = np.partition(flat, (_MIDDLE - 1, _MIDDLE), axis=1)[:, _MIDDLE - 1 : _MIDDLE + 1]
    above = flat > middle.mean(axis=1, keepdims=True)  # np.median takes ten times as long for so few
    return [int(number) for number in np.packbits(above, axis=1).view(">u8")[:, 0]]


@lru_cache(maxsize=1024)
def _views(side: float) -> np.ndarray:
    """[48, ceil(side)] float32: what is seen of a side, whose last pixel may be a fraction of one.

    Means over 16 pieces of it, over 16 pieces of its centre, its 8 lowest frequencies, and those of its centre.
    """
    rows = [
        _means(side, THUMBNAIL_LUMA_PX, 1.0),
        _means(side, THUMBNAIL_LUMA_PX, CROP),
        _cosines(side, 1.0),
        _cosines(side, CROP),
    ]
    return np.concatenate(rows).astype(np.float32)


def _means(side: float, pieces: int, crop: float) -> np.ndarray:
    edges = side * (0.5 + crop * (np.arange(pieces + 1) / pieces - 0.5))
    pixel = np.arange(np.ceil(side))
    shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return shared.clip(0) / np.diff(edges)[:, None]


def _cosines(side: float, crop: float) -> np.ndarray:
    """Of the discrete cosine transform (DCT-II) of the crop; of what is plain, all but the first are 0."""
    pixel = np.arange(np.ceil(side))
    place = 0.5 + (np.minimum(pixel + 0.5, (pixel + side) / 2) / side - 0.5) / crop
    share = _means(side, 1, crop)
    waves = np.cos(np.pi * np.arange(_HASH_SIDE)[:, None] * place.clip(0, 1)) * share
    waves[1:] -= waves[1:].sum(axis=1, keepdims=True) * share
    return waves


_PARTS = [slice(0, 16), slice(16, 32), slice(32, 40), slice(40, 48)]
#: To mirror a picture is to turn the sign of its odd frequencies.
_MIRRORED = np.where(np.arange(_HASH_SIDE) % 2, -1, 1).astype(np.float32)
