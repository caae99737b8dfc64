"""Any bytes become a plain sRGB JPEG or a reason, the same each time."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from pydantic import ValidationError

from schemas.vocabulary import Reason
from stages.acquire import AcquireSettings
from stages.acquire.decode import Picture, Refused, _transform, decode, inspect
from tests.stages.acquire.hostile_server import encoded, lying_avif, picture, png_header_of, tiff_with_tile

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
        assert len(found.fingerprint.phash) == 16
        assert int(found.fingerprint.phash, 16) >= 0


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


def _bodies() -> dict[str, list[bytes]]:
    plain, clear = picture(30, 20), picture(30, 20).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((30, 20)))
    return {
        "jpeg": [
            encoded(picture(70, 50), quality=60),
            encoded(picture(70, 50), quality=60, progressive=True),
            encoded(picture(70, 50).convert("CMYK"), quality=60),
            encoded(picture(70, 50).convert("L"), quality=60, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        ],
        "png": [
            encoded(plain, "PNG"),
            encoded(plain.quantize(16), "PNG", transparency=3),
            encoded(clear, "PNG"),
            encoded(plain, "PNG", save_all=True, append_images=[plain.rotate(180)]),
        ],
        "gif": [encoded(plain, "GIF"), encoded(plain, "GIF", save_all=True, append_images=[plain.rotate(180)])],
        "webp": [
            encoded(plain, "WEBP"),
            encoded(clear, "WEBP", lossless=True),
            encoded(plain, "WEBP", save_all=True, append_images=[plain.rotate(180)]),
        ],
        "bmp": [encoded(plain, "BMP"), encoded(plain.quantize(16), "BMP"), encoded(plain.convert("1"), "BMP")],
        "tiff": [
            encoded(plain, "TIFF"),
            encoded(plain, "TIFF", compression="tiff_lzw"),
            encoded(plain, "TIFF", compression="jpeg"),
            encoded(plain.convert("CMYK"), "TIFF", compression="tiff_adobe_deflate"),
        ],
        "avif": [
            encoded(plain, "AVIF"),
            encoded(clear, "AVIF"),
            encoded(plain, "AVIF", save_all=True, append_images=[plain.rotate(180)]),
        ],
    }


_BODIES = _bodies()


@st.composite
def corrupted(draw: st.DrawFn, form: str) -> bytes:
    """A file of `form` with some of: flipped bits, wrong sizes in its header, a splice of another file, a cut."""
    body = bytearray(draw(st.sampled_from(_BODIES[form])))
    for place in draw(st.lists(st.integers(0, 8 * len(body) - 1), max_size=5)):
        body[place // 8] ^= 1 << place % 8
    for place in draw(st.lists(st.integers(0, min(len(body), 400) - 4), max_size=2)):
        body[place : place + 4] = draw(
            st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x40\0"])
        )
    if draw(st.booleans()):
        other = draw(st.sampled_from(_BODIES[draw(st.sampled_from(sorted(_BODIES)))]))
        place, start = draw(st.integers(0, len(body))), draw(st.integers(0, len(other)))
        piece = other[start : start + draw(st.integers(0, 200))]
        body[place : place + draw(st.sampled_from([0, len(piece)]))] = piece
    return bytes(body[: draw(st.none() | st.integers(0, len(body)))])


@pytest.mark.parametrize("form", sorted(_BODIES))
def test_corrupted_files_never_raise(form: str) -> None:
    """400 files of each form, 2,800 in all: each is a picture or has a reason, and the same one twice."""

    @hypothesis_settings(
        max_examples=400, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(corrupted(form))
    def one(data: bytes) -> None:
        found = decode(data, SETTINGS)
        assert found == decode(data, SETTINGS)
        assert found.sha256 == hashlib.sha256(data).hexdigest()
        if isinstance(found, Picture):
            assert max(found.width, found.height) <= 64
            assert found.original_width * found.original_height <= SETTINGS.max_pixels
            Image.open(io.BytesIO(found.jpeg)).load()
        else:
            assert found.reason in Reason
            assert found.message

    one()


_WEIGH = """
import resource, sys
from pathlib import Path
from stages.acquire import AcquireSettings
from stages.acquire.decode import decode
settings = AcquireSettings(size=64, max_pixels=4_000_000)
decode(Path(sys.argv[1]).read_bytes(), settings)  # imports and tables are there from here on
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[2:]:
    decode(Path(name).read_bytes(), settings)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_memory_is_bounded_by_the_most_pixels(tmp_path: Path) -> None:
    """The largest pictures that are let in, and files that would take far more if their headers were believed."""
    side = 2000
    large, clear = Image.new("RGB", (side, side), "green"), Image.new("RGBA", (side, side), (1, 2, 3, 4))
    files = {
        "small": encoded(picture(64, 64)),
        "jpeg": encoded(large, subsampling=0),
        "progressive": encoded(large, progressive=True, subsampling=0),
        "cmyk": encoded(large.convert("CMYK")),
        "png": encoded(clear, "PNG"),
        "palette": encoded(large.quantize(4), "PNG", transparency=0),
        "gif": encoded(large, "GIF"),
        "webp": encoded(clear, "WEBP", lossless=True, method=0),
        "tiff": encoded(clear, "TIFF", compression="tiff_lzw"),
        "avif": encoded(clear, "AVIF", speed=10),
        "bomb.png": png_header_of(30_000, 30_000),
        "tile.tiff": tiff_with_tile(100, 6_000),
    }
    for name, body in files.items():
        (tmp_path / name).write_bytes(body)
    command = [sys.executable, "-c", _WEIGH, *(str(tmp_path / name) for name in files)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert int(ran.stdout) < 20 * 4_000_000


def test_files_that_lie_about_their_size_are_refused() -> None:
    wide = AcquireSettings(size=64, max_pixels=3_000_000)
    for body in (lying_avif(), tiff_with_tile(100, 2_000)):
        found = decode(body, wide)
        assert isinstance(found, Refused)
        assert found.reason is Reason.DECODE_ERROR
    assert isinstance(decode(tiff_with_tile(100, 128), wide), Picture)
    two_headers = bytearray(encoded(picture(70, 50)))
    place = two_headers.index(b"\xff\xc0")
    length = 2 + int.from_bytes(two_headers[place + 2 : place + 4], "big")
    second = bytearray(two_headers[place : place + length])
    second[5:9] = b"\x20\0\x20\0"
    two_headers[place:place] = second
    found = decode(bytes(two_headers), wide)
    assert isinstance(found, Refused)


def test_the_first_frame_of_an_animated_avif_is_its_main_picture() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("white", "black")]
    body = encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    assert body[8:12] == b"avis"
    assert stored(body)[1].min() > 240
    assert stored(body.replace(b"ftypavis", b"ftypmif1", 1))[1].min() > 240
    assert isinstance(decode(body.replace(b"avif", b"heic").replace(b"avis", b"heic"), SETTINGS), Refused)


def test_the_background_shows_through_transparency() -> None:
    for colour, expected in (("#ffffff", (255, 255, 255)), ("#20A040", (0x20, 0xA0, 0x40))):
        settings = AcquireSettings(size=64, background=colour)
        for size in ((40, 40), (300, 300)):
            _, pixels = stored(encoded(Image.new("RGBA", size, (255, 0, 0, 0)), "PNG"), settings)
            assert np.abs(pixels.astype(int) - expected).max() <= 3
    for wrong in ("white", "#fff", "ffffff", "#gggggg"):
        with pytest.raises(ValidationError):
            AcquireSettings(background=wrong)


def test_the_edge_of_what_is_transparent_takes_no_colour_from_it() -> None:
    """Shrinking weighs colours by their opacity: the red that nobody sees must not bleed into the visible white."""
    image = Image.new("RGBA", (256, 256), (255, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 125, 256))
    assert stored(encoded(image, "PNG"))[1].min() > 250


def test_all_is_encoded_again_where_the_recipe_says_so() -> None:
    body = encoded(picture(64, 40), quality=80)
    always = stored(body, AcquireSettings(size=64, reencode="always"))[0]
    assert always.jpeg != body
    assert always.fingerprint == stored(body)[0].fingerprint


def test_svg_has_a_message_of_its_own() -> None:
    head = b'<?xml version="1.0"?>\n<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd">\n'
    for body in (b"<svg/>", b"\xef\xbb\xbf \n<SVG xmlns='x'></SVG>", head + b"<svg></svg>", b"<!-- x --><svg/>"):
        found = decode(body, SETTINGS)
        assert isinstance(found, Refused)
        assert (found.reason, found.message[:3]) == (Reason.NOT_A_PICTURE, "SVG")
    html = decode(b"<html><svg></svg></html>", SETTINGS)
    assert isinstance(html, Refused)
    assert html.message.startswith("begins with")


def test_inspect_reads_headers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.acquire.decode._store", None)
    assert inspect(encoded(picture(90, 60)), SETTINGS) is None
    refused = inspect(png_header_of(10_000, 10_000), SETTINGS)
    assert refused is not None
    assert refused.reason is Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(1200, 800), (700, 1001), (520, 390)])
def test_pictures_stay_close_to_a_full_decode(form: str, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).normal(0, 4, (size[1], size[0], 3))
    original = Image.fromarray((np.asarray(picture(*size, seed=3)) + noise).clip(0, 255).astype(np.uint8))
    body = encoded(original, form, quality=90)
    _, pixels = stored(body, AcquireSettings(size=256))
    full = Image.open(io.BytesIO(body)).convert("RGB")
    for reference in (Image.Resampling.LANCZOS, Image.Resampling.BOX):
        expected = np.asarray(full.resize(pixels.shape[1::-1], reference)).astype(int)
        assert np.abs(pixels - expected).mean() <= 3


def test_an_srgb_profile_changes_nothing_and_another_does() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert _transform(srgb, "RGB") is None
    plain, tagged = encoded(picture(300, 200)), encoded(picture(300, 200), icc_profile=srgb)
    assert np.array_equal(stored(plain)[1], stored(tagged)[1])


def test_files_that_decode_to_the_same_have_one_digest_of_pixels() -> None:
    body = encoded(picture(64, 40), quality=80)
    noted = encoded(picture(64, 40), quality=80, comment=b"a comment")
    found, other = stored(body)[0], stored(noted)[0]
    assert found.sha256 != other.sha256
    assert found.pixels_sha256 == other.pixels_sha256
    assert found.pixels_sha256 != stored(encoded(picture(64, 40), quality=79))[0].pixels_sha256
