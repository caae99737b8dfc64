"""A picture's fingerprint: near to that of its copies, in the form in which select reads it."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from schemas.tables import SAMPLES
from stages.acquire.fingerprint import Fingerprint, fingerprint, pixels_sha256
from stages.sample.world import scene_of
from tests.stages.acquire.hostile_server import picture

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def hashes(found: Fingerprint) -> list[int]:
    return [int(found.phash, 16), *found.phash_variants]


def crop(whole: Image.Image) -> Image.Image:
    """The centre 90%; sides must be multiples of 20."""
    left, top = whole.width // 20, whole.height // 20
    return whole.crop((left, top, whole.width - left, whole.height - top))


@pytest.mark.parametrize("row", range(12))
def test_the_hash_is_the_one_of_imagehash_but_for_few_bits(row: int) -> None:
    scene = scene_of(3, row).picture
    assert bits(int(fingerprint(scene).phash, 16), int(str(imagehash.phash(scene)), 16)) <= 6


@pytest.mark.parametrize("size", [(200, 160), (260, 400), (640, 480)])
def test_variants_are_the_hashes_of_the_mirrored_and_the_cropped_picture(size: tuple[int, int]) -> None:
    scene = scene_of(3, 1).picture.resize(size)
    _, mirrored, cropped, both = hashes(fingerprint(scene))
    assert bits(mirrored, hashes(fingerprint(scene.transpose(MIRROR)))[0]) <= 2
    assert bits(cropped, hashes(fingerprint(crop(scene)))[0]) <= 4
    assert bits(both, hashes(fingerprint(crop(scene).transpose(MIRROR)))[0]) <= 4


def test_the_thumbnail_holds_luma_of_the_whole_and_of_its_centre_and_chroma() -> None:
    framed = Image.new("RGB", (80, 80), (0, 0, 255))
    framed.paste((255, 0, 0), (4, 4, 76, 76))
    thumbnail = np.frombuffer(fingerprint(framed).thumbnail, np.uint8)
    whole, centre = thumbnail[:256].reshape(16, 16), thumbnail[256:512].reshape(16, 16)
    blue, red = thumbnail[512:].reshape(2, 8, 8)
    assert abs(int(centre.min()) - 76) <= 1
    assert abs(int(centre.max()) - 76) <= 1
    assert whole[0, 0] < 40
    assert whole[8, 8] == centre[0, 0]
    assert abs(int(red[4, 4]) - 255) <= 1
    assert blue[0, 0] > blue[4, 4] + 40


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_pictures_of_any_size_have_one(width: int, height: int, plain: bool) -> None:
    shown = Image.new("RGB", (width, height), "teal") if plain else picture(width, height)
    found = fingerprint(shown)
    assert found == fingerprint(shown.copy())
    assert len(found.thumbnail) == SAMPLES.field("thumbnail").type.byte_width
    assert len(found.phash_variants) == SAMPLES.field("phash_variants").type.list_size
    assert all(0 <= value < 1 << 64 for value in hashes(found))
    if plain:
        assert len(set(found.thumbnail[:512])) == 1
        assert hashes(found) == [1 << 63] * 4


def test_the_digest_is_of_shape_and_pixels() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    assert pixels_sha256(pixels) == pixels_sha256(np.asfortranarray(pixels))
    assert len(pixels_sha256(pixels)) == 64
    assert pixels_sha256(pixels) != pixels_sha256(pixels.reshape(6, 4, 3))
    assert pixels_sha256(pixels) != pixels_sha256(pixels + np.uint8(1))
