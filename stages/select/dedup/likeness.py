"""Whether two pictures are one, as far as their thumbnails tell.

A 64-bit hash says where large areas are brighter than others, and pictures on like backgrounds share most of it; small
things that differ show in the thumbnails.
"""

from __future__ import annotations

import numpy as np

from schemas.tables import THUMBNAIL_CHROMA_PX, THUMBNAIL_LUMA_PX
from stages.select.dedup.settings import PerceptualSettings

_PAIRS_AT_ONCE = 1 << 15
#: Luma, in levels of 255, that counts as noise: what is plain but for it is like all that is plain.
_NOISE = 2.0
_LUMA, _CHROMA = THUMBNAIL_LUMA_PX**2, THUMBNAIL_CHROMA_PX**2


def alike(
    thumbnails: np.ndarray, one: np.ndarray, other: np.ndarray, view: np.ndarray, settings: PerceptualSettings
) -> np.ndarray:
    """Whether the luma of two thumbnails correlates, and their colours are near, as much as the settings ask.

    Brightness and contrast do not change a correlation; how far brightness may shift is said by `max_colour_shift`.

    Args:
        thumbnails: uint8 [n, 640], as in `schemas.tables.SAMPLES`.
        one, other: places of the two pictures of each pair.
        view: how the other one is seen: 0 as it is, 1 mirrored, 2 its centre, 3 its centre mirrored.

    Returns:
        bool, one for each pair.
    """
    found = np.zeros(len(one), bool)
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        piece = slice(start, start + _PAIRS_AT_ONCE)
        ours, theirs = thumbnails[one[piece]], _seen(thumbnails[other[piece]], view[piece])
        correlation, luma_shift = _compare_luma(ours[:, :_LUMA], theirs[:, :_LUMA])
        shift = np.maximum(luma_shift / 2, _chroma_shift(ours[:, _LUMA:], theirs[:, _LUMA:]))
        found[piece] = (correlation >= (settings.min_likeness or 0)) & (shift <= settings.max_colour_shift)
    return found


def _seen(thumbnails: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Luma, then chroma, of the picture as it is seen: uint8 [n, 256 + 128]."""
    whole, centre, chroma = np.split(thumbnails, [_LUMA, 2 * _LUMA], axis=1)
    luma = np.where((view >= 2)[:, None], centre, whole).reshape(-1, THUMBNAIL_LUMA_PX, THUMBNAIL_LUMA_PX)
    chroma = chroma.reshape(-1, 2 * THUMBNAIL_CHROMA_PX, THUMBNAIL_CHROMA_PX)
    mirrored = (view % 2 == 1)[:, None, None]
    turned = [np.where(mirrored, part[:, :, ::-1], part).reshape(len(part), -1) for part in (luma, chroma)]
    return np.concatenate(turned, axis=1)


def _compare_luma(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The correlation of each row with the other's, and how far their means are apart."""
    a, b = ours.astype(np.float32), theirs.astype(np.float32)
    mean_a, mean_b = a.mean(axis=1, keepdims=True), b.mean(axis=1, keepdims=True)
    a, b = a - mean_a, b - mean_b
    products = [np.einsum("ij,ij->i", x, y) + _LUMA * _NOISE**2 for x, y in ((a, b), (a, a), (b, b))]
    return products[0] / np.sqrt(products[1] * products[2]), np.abs(mean_a - mean_b)[:, 0]


def _chroma_shift(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Root mean square of the difference; of the whole picture also where only its centre is seen."""
    return np.sqrt(np.square(ours[:, -2 * _CHROMA :].astype(np.float32) - theirs[:, -2 * _CHROMA :]).mean(axis=1))
