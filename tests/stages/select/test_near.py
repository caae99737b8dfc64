"""Near duplicates: pairs by hash, and what their thumbnails say of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from schemas.tables import SAMPLES
from stages.acquire.fingerprint import fingerprint
from stages.sample.world import scene_of
from stages.select.dedup.fingerprints import FINGERPRINT_COLUMNS, Fingerprints, fingerprints
from stages.select.dedup.hamming import hamming_pairs
from stages.select.dedup.perceptual import perceptual_duplicates, perceptual_pairs
from stages.select.dedup.settings import PerceptualSettings

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


def plain(max_hamming: int) -> PerceptualSettings:
    """Settings that ask for the first hash alone."""
    return PerceptualSettings(max_hamming=max_hamming, mirrored=False, cropped=False, min_likeness=None)


def unseen(hashes: np.ndarray) -> Fingerprints:
    """Fingerprints of pictures of which the first hash alone is known."""
    known = np.zeros(len(hashes), bool)
    return Fingerprints(np.repeat(hashes[:, None], 4, axis=1), np.zeros((len(hashes), 640), np.uint8), known)


def seen(*pictures: Image.Image) -> Fingerprints:
    rows = [vars(fingerprint(picture)) for picture in pictures]
    table = {name: pa.array([row[name] for row in rows], SAMPLES.field(name).type) for name in FINGERPRINT_COLUMNS}
    return fingerprints(pa.table(table))


def crop(whole: Image.Image) -> Image.Image:
    left, top = round(whole.width * 0.05), round(whole.height * 0.05)
    return whole.crop((left, top, whole.width - left, whole.height - top))


@st.composite
def families(draw: st.DrawFn) -> np.ndarray:
    """Hashes in families that differ in few bits, some equal, in any order."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    base = rng.integers(0, 1 << 64, draw(st.integers(1, 6)), np.uint64)
    hashes = base[rng.integers(0, len(base), draw(st.integers(0, 60)))]
    for _ in range(draw(st.integers(0, 12))):
        hashes = hashes ^ (np.uint64(1) << rng.integers(0, 64, len(hashes)).astype(np.uint64))
    return hashes


@settings(max_examples=60, deadline=None)
@given(families(), st.integers(0, 16), st.integers(0, 60))
def test_hamming_pairs_are_all_and_only_those_near(hashes: np.ndarray, k: int, targets: int) -> None:
    near = np.triu(np.bitwise_count(hashes[:, None] ^ hashes) <= k, 1)
    for asked, expected in ((None, np.nonzero(near)), (targets, np.nonzero(near[:targets]))):
        left, right = hamming_pairs(hashes, k, asked, threads=2)
        assert list(zip(left, right, strict=True)) == list(zip(*expected, strict=True))


@pytest.mark.parametrize("k", [0, 1, 6])
def test_hamming_pairs_among_hashes_that_share_most_bits(k: int) -> None:
    rng = np.random.default_rng(5)
    base = rng.integers(0, 1 << 64, 1000, np.uint64)
    # Low bits only: runs of equal blocks are long, and pairs lie anywhere from 0 to 12 bits apart.
    hashes = np.concatenate([base, base ^ np.uint64(1), base[:1] ^ rng.integers(0, 4096, 1000, np.uint64)])
    left, right = hamming_pairs(hashes, k)
    expected = np.nonzero(np.triu(np.bitwise_count(hashes[:, None] ^ hashes) <= k, 1))
    np.testing.assert_array_equal([left, right], expected)


@settings(max_examples=60, deadline=None)
@given(families(), st.integers(0, 10), st.integers(0, 8))
def test_perceptual_dedup_is_the_plain_rule(hashes: np.ndarray, k: int, settled: int) -> None:
    distance = np.bitwise_count(hashes[:, None] ^ hashes)
    keeper: list[int] = []
    for row in range(len(hashes)):
        near = [other for other in range(row) if distance[row, other] <= k and keeper[other] < 0 and row >= settled]
        keeper.append(min(near, key=lambda other: (distance[row, other], other), default=-1))
    assert perceptual_duplicates(unseen(hashes), plain(k), settled=settled).tolist() == keeper


def test_single_drops_the_whole_chain() -> None:
    chain = unseen(np.array([0, 0b111, 0b111111], np.uint64))
    assert perceptual_duplicates(chain, plain(3)).tolist() == [-1, 0, -1]
    assert perceptual_duplicates(chain, plain(3), "single").tolist() == [-1, 0, 0]


@pytest.mark.parametrize("row", range(6))
def test_every_kind_of_copy_is_found(row: int) -> None:
    scene = scene_of(11, row).picture
    coloured = ImageEnhance.Color(ImageEnhance.Brightness(scene).enhance(1.1)).enhance(0.9)
    copies = [
        scene, scene.resize((300, 200)), scene.transpose(MIRROR), crop(scene), coloured, crop(scene).transpose(MIRROR),
    ]  # fmt: skip
    for order in (copies, copies[::-1]):
        keeper = perceptual_duplicates(seen(*order), PerceptualSettings())
        assert (keeper[1:] >= 0).all()


def test_settings_say_which_copies_are_one() -> None:
    scene = scene_of(11, 2).picture
    for copy, name in ((scene.transpose(MIRROR), "mirrored"), (crop(scene), "cropped")):
        assert perceptual_duplicates(seen(scene, copy), PerceptualSettings()).tolist() == [-1, 0]
        without = PerceptualSettings.model_validate({name: False})
        assert perceptual_duplicates(seen(scene, copy), without).tolist() == [-1, -1]


def test_like_hashes_of_unlike_pictures_are_no_pair() -> None:
    grey, dark = (Image.new("RGB", (200, 200), colour) for colour in ((128, 128, 128), (110, 110, 110)))
    dotted = grey.copy()
    dotted.paste((255, 0, 0), (90, 90, 102, 102))
    red, green = (Image.new("RGB", (200, 200), colour) for colour in ((200, 60, 60), (60, 128, 60)))
    prints = seen(grey, dark, dotted, red, green)
    left, right, _ = perceptual_pairs(prints, PerceptualSettings(max_hamming=16))
    assert set(zip(left.tolist(), right.tolist(), strict=True)) == {(0, 1)}
    blind = PerceptualSettings(max_hamming=16, min_likeness=None)
    left, right, _ = perceptual_pairs(prints, blind)
    assert {(0, 1), (0, 3), (0, 4), (3, 4)} <= set(zip(left.tolist(), right.tolist(), strict=True))


def test_a_picture_without_thumbnail_goes_by_its_hash_alone() -> None:
    prints = seen(scene_of(11, 1).picture, scene_of(11, 4).picture)
    hashes = np.repeat(prints.hashes[:1], 2, axis=0)
    for known, expected in (([True, True], [-1, -1]), ([True, False], [-1, 0])):
        asked = Fingerprints(hashes, prints.thumbnails, np.array(known))
        assert perceptual_duplicates(asked, PerceptualSettings()).tolist() == expected


def test_rows_without_fingerprint_are_read_as_such() -> None:
    there = vars(fingerprint(scene_of(11, 1).picture))
    columns = {
        name: pa.chunked_array([pa.array([missing, there[name]], SAMPLES.field(name).type)])
        for name, missing in (("phash", "00000000000000ff"), ("phash_variants", None), ("thumbnail", None))
    }
    prints = fingerprints(pa.table(columns))
    assert prints.known.tolist() == [False, True]
    assert prints.hashes[0].tolist() == [255] * 4
    assert prints.hashes[1, 1:].tolist() == there["phash_variants"]
    assert prints.thumbnails[1].tobytes() == there["thumbnail"]
    assert fingerprints(pa.table(columns).slice(0, 0)).hashes.shape == (0, 4)
    assert fingerprints(pa.table(columns).slice(1)).thumbnails.tobytes() == there["thumbnail"]


def test_no_rows_and_all_rows_alike() -> None:
    assert perceptual_duplicates(unseen(np.empty(0, np.uint64)), PerceptualSettings()).tolist() == []
    many = unseen(np.zeros(200_000, np.uint64))
    assert perceptual_duplicates(many, PerceptualSettings()).tolist() == [-1] + [0] * 199_999
