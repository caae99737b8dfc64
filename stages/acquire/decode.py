"""Turns the bytes of any picture on the web into a small, plain sRGB JPEG, or says why that cannot be done."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from schemas.vocabulary import Reason
from stages.acquire.avif import av1_sizes
from stages.acquire.fingerprint import Fingerprint, fingerprint, pixels_sha256
from stages.acquire.settings import AcquireSettings

#: Each known format's first bytes (and the bytes from the eighth on, for containers). AVIF is looked at apart.
_SIGNATURES: list[tuple[str, bytes, tuple[bytes, ...]]] = [
    ("JPEG", b"\xff\xd8\xff", ()),
    ("PNG", b"\x89PNG\r\n\x1a\n", ()),
    ("GIF", b"GIF87a", ()),
    ("GIF", b"GIF89a", ()),
    ("WEBP", b"RIFF", (b"WEBP",)),
    ("BMP", b"BM", ()),
    ("TIFF", b"II*\0", ()),
    ("TIFF", b"MM\0*", ()),
]
_AVIF_BRANDS = {b"avif", b"avis"}
#: What Pillow and simplejpeg are known to raise on broken input.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    SyntaxError,
    EOFError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)
#: More scans than any real progressive JPEG has; each costs as much time as a whole decode.
_MOST_SCANS = 100
_END_OF_JPEG = b"\xff\xd9"
#: For what libjpeg has not brought to nearly the right size. Sharper than a triangle, and a third cheaper than a cubic.
_FILTER = Image.Resampling.HAMMING
#: A larger ICC profile counts as absent: real ones, those of printing presses included, are smaller.
_LARGEST_PROFILE = 4_000_000
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_HEIGHT = 0x0142, 0x0143
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
_COLOURS = Image.fromarray(np.indices((16, 16, 16), np.uint8).reshape(3, 64, 64).transpose(1, 2, 0) * np.uint8(17))

cv2.setNumThreads(1)  # pictures are decoded side by side, so that one has no use for threads of its own

# Pillow warns of odd metadata, and of pictures from 89 Mpx on. Metadata is thrown away, and the recipe's own limit on
# pixels is checked before one is decoded; what is wrong with a picture stands in its row.
for _category in (UserWarning, Image.DecompressionBombWarning):
    warnings.filterwarnings("ignore", category=_category, module=r"PIL\b")


@dataclass(frozen=True)
class Picture:
    """A picture as stored. Sizes in pixels; the original's are those of the picture as shown, upright."""

    jpeg: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    fingerprint: Fingerprint
    pixels_sha256: str  # of the pixels, before they were encoded
    sha256: str  # of the bytes that came


@dataclass(frozen=True)
class Refused:
    """Why the bytes that came gave no picture. The original's size is there where its header could be read."""

    reason: Reason
    message: str
    sha256: str
    original_width: int | None = None
    original_height: int | None = None


def decode(body: bytes, settings: AcquireSettings) -> Picture | Refused:
    """Decodes, turns upright, shrinks, lays on the background, brings to sRGB, and encodes.

    The same input gives the same bytes. A JPEG that is small enough, plain (no metadata, no ICC profile, RGB) and whole
    is kept byte for byte, unless the recipe has all encoded again. Memory stays under 20 bytes for each pixel of
    `max_pixels`, besides `body` itself.
    """
    opened = _open(body, settings)
    if isinstance(opened, Refused):
        return opened
    try:
        return _store(body, opened, settings)
    except (Image.DecompressionBombError, *_BROKEN) as error:
        return _broken(body, error, opened.format, opened.size)


def inspect(body: bytes, settings: AcquireSettings) -> Refused | None:
    """Why `body` is not worth decoding, as far as its header tells, or None."""
    opened = _open(body, settings)
    return opened if isinstance(opened, Refused) else None


def _open(body: bytes, settings: AcquireSettings) -> Image.Image | Refused:
    """Reads the header. No pixel is decoded."""
    form = _sniff(body)
    if form is None:
        what = "SVG is a program to draw by, not a picture" if _is_svg(body) else f"begins with {body[:16]!r}"
        return Refused(Reason.NOT_A_PICTURE, what, _digest(body))
    if form == "JPEG" and _count_scans(body) > _MOST_SCANS:
        return Refused(Reason.DECODE_ERROR, f"more than {_MOST_SCANS} scans", _digest(body))
    size = None
    try:
        opened = Image.open(io.BytesIO(_as_still(body) if form == "AVIF" else body), formats=[form])
        size = width, height = opened.size
        if width * height > settings.max_pixels:
            return Refused(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels", _digest(body), width, height)
        if width * height < settings.min_pixels:
            return Refused(Reason.TOO_FEW_PIXELS, f"{width} x {height} pixels", _digest(body), width, height)
        _check_claims(body, opened, settings)
    except (Image.DecompressionBombError, *_BROKEN) as error:
        return _broken(body, error, form, size)
    return opened


def _broken(body: bytes, error: Exception, form: str | None, size: tuple[int, int] | None) -> Refused:
    width, height = size or (None, None)
    if isinstance(error, Image.DecompressionBombError):
        return Refused(Reason.TOO_MANY_PIXELS, "more pixels than any recipe allows", _digest(body), width, height)
    if isinstance(error, Image.UnidentifiedImageError):  # whose message has an address of memory
        return Refused(Reason.DECODE_ERROR, f"the {form} header is broken", _digest(body))
    return Refused(Reason.DECODE_ERROR, f"{form}: {type(error).__name__}: {error}", _digest(body), width, height)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _sniff(body: bytes) -> str | None:
    for form, begin, brands in _SIGNATURES:
        if body.startswith(begin) and (not brands or body[8:12] in brands):
            return form
    named = {body[place : place + 4] for place in range(8, min(int.from_bytes(body[:4], "big"), 64), 4)}
    return "AVIF" if body[4:8] == b"ftyp" and not named.isdisjoint(_AVIF_BRANDS) else None


def _as_still(body: bytes) -> bytes:
    """An AVIF file whose main brand says that its primary item is meant, not its animation."""
    return body[:8] + b"avif" + body[12:]


def _is_svg(body: bytes) -> bool:
    head = body[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in head


def _count_scans(body: bytes) -> int:
    """How often a JPEG's start-of-scan marker occurs; ten times faster than bytes.count."""
    pairs = (np.frombuffer(body, "<u2", (len(body) - start) // 2, start) for start in (0, 1))
    return sum(int(np.count_nonzero(pair == 0xDAFF)) for pair in pairs)


def _check_claims(body: bytes, opened: Image.Image, settings: AcquireSettings) -> None:
    """Compares a picture's size with the sizes that its decoder goes by when it takes memory.

    Raises:
        ValueError: they contradict each other, or ask for more pixels than allowed.
    """
    if opened.format == "TIFF":
        tags = getattr(opened, "tag_v2", {})
        if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0) > settings.max_pixels:
            raise ValueError("a tile has more pixels than allowed")
    elif opened.format == "AVIF":
        sizes, in_grid = av1_sizes(body)
        if not in_grid and opened.size not in sizes:
            raise ValueError(f"claims {opened.size} and holds {sizes[:4]}")
        # A picture, its transparency and a gain map; the parts of a grid count as one picture.
        if sum(width * height for width, height in sizes) > 3 * settings.max_pixels:
            raise ValueError("the pictures inside have more pixels than allowed")


def _store(body: bytes, opened: Image.Image, settings: AcquireSettings) -> Picture:
    size = opened.size
    target = _fit(size, settings)
    plain = False
    decoded = None
    if isinstance(opened, JpegImageFile) and opened.mode in ("RGB", "L"):
        plain = settings.reencode == "when_needed" and target == size and _is_plain(body, opened)
        pixels = _shrink(_decode_jpeg(body, opened, target), target)
        decoded = picture = Image.fromarray(pixels)
    else:
        opened.draft(None, target)
        opened.load()
        picture = _eight_bits(opened)
    orientation = _orientation(opened)
    if picture.size != target:
        picture = picture.resize(target, _FILTER, reducing_gap=2.0)
    picture = _flatten(picture, settings.background)
    picture = _to_srgb(picture, opened.info.get("icc_profile"))
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    if picture is not decoded:
        pixels = np.ascontiguousarray(picture)
    if plain:
        jpeg = body
    else:
        jpeg = simplejpeg.encode_jpeg(pixels, settings.jpeg_quality, colorspace="RGB", colorsubsampling="420")
    original = size[::-1] if orientation >= 5 else size
    return Picture(jpeg, *picture.size, *original, fingerprint(picture), pixels_sha256(pixels), _digest(body))


def _fit(size: tuple[int, int], settings: AcquireSettings) -> tuple[int, int]:
    """(width, height) in which a picture of `size` is stored: its shape kept, its longest side at most the set one."""
    longest = max(size)
    if settings.resize == "no" or longest <= settings.size:
        return size
    width, height = (max(1, round(side * settings.size / longest)) for side in size)
    return width, height


def _is_plain(body: bytes, opened: JpegImageFile) -> bool:
    """Whether a JPEG holds a single RGB picture and nothing else: no metadata, profile, or bytes after its end."""
    return (
        opened.format == "JPEG"
        and opened.mode == "RGB"
        and {name for name, _ in opened.applist} <= {"APP0", "APP14"}
        and body.endswith(_END_OF_JPEG)
        and body.count(_END_OF_JPEG) == 1
    )


def _decode_jpeg(body: bytes, opened: JpegImageFile, target: tuple[int, int]) -> np.ndarray:
    """Decodes at the smallest of libjpeg's scales that is not smaller than `target` (width, height).

    Returns:
        uint8 [height, width, 3], or [height, width] of a grey picture.

    Raises:
        ValueError: the data is broken or cut short. Stray bytes between markers, which harm nothing, are let pass.
    """
    height, width, _, _ = simplejpeg.decode_jpeg_header(body, strict=False)
    if (width, height) != opened.size:
        raise ValueError("two headers of different sizes")
    colorspace = "GRAY" if opened.mode == "L" else "RGB"
    options = {"min_width": target[0], "min_height": target[1], "fastupsample": target != opened.size}
    try:
        pixels = simplejpeg.decode_jpeg(body, colorspace, **options)
    except ValueError as error:
        if "extraneous bytes" not in str(error):
            raise
        pixels = simplejpeg.decode_jpeg(body, colorspace, strict=False, **options)
    return pixels[:, :, 0] if opened.mode == "L" else pixels


def _shrink(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Brings a decoded JPEG to `target` (width, height).

    libjpeg has left less than a factor of two, in which no pixel is passed over by interpolating between neighbours: as
    near to a Lanczos resize of all pixels as better filters are, in a third of their time, and the same on every
    machine. A picture that is decoded as large as it is may be far from its target.
    """
    height, width = pixels.shape[:2]
    if (width, height) == target:
        return pixels
    if width > 2 * target[0] or height > 2 * target[1]:
        return np.asarray(Image.fromarray(pixels).resize(target, _FILTER, reducing_gap=2.0))
    return cv2.resize(pixels, target, interpolation=cv2.INTER_LINEAR_EXACT)


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if value in _TURNS else 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Brings any mode to RGB, L or CMYK of 8 bits, or to RGBA or LA where some of it is transparent.

    Raises:
        ValueError: pixels of 32 bits, whose range is not known.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits")
    if picture.has_transparency_data:
        return picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
    return picture if picture.mode in ("RGB", "L", "CMYK") else picture.convert("RGB")


def _flatten(picture: Image.Image, background: str) -> Image.Image:
    """Lays what is transparent on a colour."""
    if picture.mode not in ("RGBA", "LA"):
        return picture
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, background), picture).convert("RGB")


def _to_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """Applies the picture's ICC profile; one that is broken or made for another mode counts as absent."""
    if icc and len(icc) <= _LARGEST_PROFILE:
        try:
            transform = _transform(icc, picture.mode)
            converted = ImageCms.applyTransform(picture, transform) if transform else None
        except (ImageCms.PyCMSError, *_BROKEN):
            converted = None
        if converted is not None:
            return converted
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@lru_cache(maxsize=32)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """A colour transform to sRGB, or None where it is none: most profiles are sRGB itself.

    Most pictures share a few profiles, and building a transform costs more than applying it.
    """
    transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(icc)), _SRGB, mode, "RGB")
    if mode == "RGB":
        changed = np.asarray(ImageCms.applyTransform(_COLOURS, transform), np.int16) - np.asarray(_COLOURS)
        if np.abs(changed).max() <= 1:
            return None
    return transform
