"""Any bytes become a plain sRGB JPEG or a reason, the same each time."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from schemas.vocabulary import Reason
from stages.acquire import AcquireSettings
from stages.acquire.decode import Picture, Refused, decode
from tests.stages.acquire.hostile_server import encoded, picture, png_header_of

#: pytest resets the filters that the module sets.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")

SETTINGS = AcquireSettings(size=64)


def stored(body: bytes, settings: AcquireSettings = SETTINGS) -> tuple[Picture, np.ndarray]:
    """The picture, and its pixels (height, width, 3) as stored."""
    found = decode(body, settings)
    assert isinstance(found, Picture), found
    with Image.open(io.BytesIO(found.jpeg)) as image:
        assert image.format == "JPEG"
        assert image.mode == "RGB"
        assert image.size == (found.width, found.height)
        assert not image.getexif()
        assert "icc_profile" not in image.info
        return found, np.asarray(image)


def test_all_forms_give_nearly_the_same_picture() -> None:
    original = picture(300, 200)
    forms = {
        "jpeg": encoded(original, quality=95),
        "progressive": encoded(original, quality=95, progressive=True),
        "cmyk": encoded(original.convert("CMYK"), quality=95),
        "png": encoded(original, "PNG"),
        "gif": encoded(original, "GIF"),
        "webp": encoded(original, "WEBP", quality=95),
        "bmp": encoded(original, "BMP"),
        "tiff": encoded(original, "TIFF"),
        "avif": encoded(original, "AVIF", quality=95),
        "mpo": encoded(original, "MPO", save_all=True, append_images=[original.rotate(180)], quality=95),
        "palette": encoded(original.quantize(256), "PNG"),
    }
    expected = np.asarray(original.resize((64, 43), Image.Resampling.BICUBIC)).astype(int)
    for form, body in forms.items():
        found, pixels = stored(body)
        assert (found.width, found.height, found.original_width, found.original_height) == (64, 43, 300, 200), form
        assert np.abs(pixels - expected).mean() < 6, form
        assert found.sha256 == hashlib.sha256(body).hexdigest()
        assert len(found.phash) == 16
        assert int(found.phash, 16) >= 0


def test_a_small_plain_jpeg_is_kept_as_it_is() -> None:
    body = encoded(picture(64, 40), quality=80)
    assert stored(body)[0].jpeg == body
    for other in (
        encoded(picture(64, 40), quality=80, comment=b"a comment"),
        encoded(picture(64, 40), quality=80, exif=Image.Exif()),
        encoded(picture(64, 40).convert("L"), quality=80),
        encoded(picture(65, 40), quality=80),
        body + b"PK a hidden archive",
    ):
        assert stored(other)[0].jpeg != other


def test_nothing_is_enlarged_and_no_resize_keeps_the_size() -> None:
    assert stored(encoded(picture(20, 30), "PNG"))[0].height == 30
    found, _ = stored(encoded(picture(200, 100), "PNG"), AcquireSettings(size=64, resize="no"))
    assert (found.width, found.height) == (200, 100)
    assert stored(encoded(picture(2000, 2), "PNG"))[0].height == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(form: str, orientation: int) -> None:
    shown = Image.new("RGB", (90, 60), "white")
    shown.paste((200, 0, 0), (0, 0, 30, 20))
    as_taken = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    turned = shown if as_taken is None else shown.transpose(Image.Transpose(as_taken))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found, pixels = stored(encoded(turned, form, exif=exif))
    assert (found.width, found.height, found.original_width, found.original_height) == (64, 43, 90, 60)
    assert np.abs(pixels[5, 8].astype(int) - [200, 0, 0]).max() < 60
    assert pixels[5, -8].min() > 200
    assert pixels[-5, 8].min() > 200


def test_transparency_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    palette = Image.new("P", (40, 40), 0)
    palette.putpalette([255, 0, 0] * 256)
    for body in (
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True, exact=True),
        encoded(Image.new("LA", (40, 40), (0, 0)), "PNG"),
        encoded(palette, "PNG", transparency=0),
        encoded(palette, "GIF", transparency=0),
        encoded(Image.new("RGB", (40, 40), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
    ):
        assert stored(body)[1].min() > 250
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 128))
    assert abs(int(stored(encoded(half, "PNG"))[1].mean()) - 127) < 3


def test_sixteen_bits_bilevel_and_32_bits() -> None:
    ramp = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    _, pixels = stored(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(pixels[:, :, 0].astype(int) - (ramp >> 8)).mean() < 3
    _, pixels = stored(encoded(Image.new("1", (40, 40), 1), "PNG"))
    assert pixels.min() > 250
    refused = decode(encoded(Image.new("F", (40, 40), 0.5), "TIFF"), SETTINGS)
    assert isinstance(refused, Refused)
    assert refused.reason is Reason.DECODE_ERROR


def test_icc_profiles_are_applied() -> None:
    """A Lab-to-sRGB check by hand would need a reference; swapped primaries show plainly whether a profile was used."""
    srgb = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = srgb.index(b"rXYZ"), srgb.index(b"bXYZ")
    srgb[red : red + 4], srgb[blue : blue + 4] = b"bXYZ", b"rXYZ"
    red_picture = Image.new("RGB", (40, 40), (255, 0, 0))
    for form, options in (("JPEG", {"quality": 95}), ("PNG", {})):
        _, pixels = stored(encoded(red_picture, form, icc_profile=bytes(srgb), **options))
        assert pixels[:, :, 2].min() > 200
        assert pixels[:, :, 0].max() < 60
    _, pixels = stored(encoded(red_picture, "PNG", icc_profile=b"not a profile"))
    assert pixels[:, :, 0].min() > 200


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black", "black")]
    for form in ("GIF", "WEBP", "PNG"):
        assert stored(encoded(frames[0], form, save_all=True, append_images=frames[1:]))[1].min() > 240


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.NOT_A_PICTURE),
        (b"<html></html>", Reason.NOT_A_PICTURE),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', Reason.NOT_A_PICTURE),
        (b"%PDF-1.7", Reason.NOT_A_PICTURE),
        (b"\xff\xd8\xff", Reason.DECODE_ERROR),
        (png_header_of(200, 200), Reason.DECODE_ERROR),
        (png_header_of(10_000, 10_000), Reason.TOO_MANY_PIXELS),
        (png_header_of(2_000_000, 2_000_000), Reason.TOO_MANY_PIXELS),
        (encoded(picture(15, 17), "PNG"), Reason.TOO_FEW_PIXELS),
        (encoded(picture(90, 90))[:-400], Reason.DECODE_ERROR),
        (encoded(picture(90, 90), progressive=True)[:-400], Reason.DECODE_ERROR),
        (encoded(picture(90, 90), "PNG")[:-400], Reason.DECODE_ERROR),
        (encoded(picture(90, 90), "WEBP")[:-40], Reason.DECODE_ERROR),
        (encoded(picture(90, 90)) + b"\xff\xda" * 101, Reason.DECODE_ERROR),
    ],
)
def test_refusals(body: bytes, reason: Reason) -> None:
    found = decode(body, SETTINGS)
    assert isinstance(found, Refused)
    assert found.reason is reason


def test_too_many_pixels_is_known_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("stages.acquire.decode._store", decoded)
    found = decode(png_header_of(10_000, 10_000), SETTINGS)
    assert isinstance(found, Refused)
    assert (found.original_width, found.original_height) == (10_000, 10_000)


_BODIES = [
    encoded(picture(70, 50), quality=60),
    encoded(picture(70, 50), quality=60, progressive=True),
    encoded(picture(30, 20), "PNG"),
    encoded(picture(30, 20).quantize(16), "PNG"),
    encoded(picture(30, 20), "GIF"),
    encoded(picture(30, 20), "WEBP"),
    encoded(picture(30, 20), "TIFF", compression="tiff_lzw"),
]


@hypothesis_settings(max_examples=400, deadline=None, derandomize=True)
@given(
    st.sampled_from(_BODIES),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=6)), max_size=6),
    st.none() | st.integers(0, 10_000),
)
@example(_BODIES[0], [], None)
def test_corrupted_bytes_never_raise(body: bytes, patches: list[tuple[int, bytes]], cut: int | None) -> None:
    spoilt = bytearray(body)
    for place, patch in patches:
        place %= len(body)
        spoilt[place : place + len(patch)] = patch
    data = bytes(spoilt[: None if cut is None else cut % len(body)])
    found = decode(data, SETTINGS)
    assert found == decode(data, SETTINGS)
    if isinstance(found, Picture):
        assert max(found.width, found.height) <= 64
        Image.open(io.BytesIO(found.jpeg)).load()
    else:
        assert found.reason in Reason
        assert found.message
