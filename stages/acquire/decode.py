"""Turns the bytes of any picture on the web into a small, plain sRGB JPEG, or says why that cannot be done."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from functools import lru_cache

import imagehash
import numpy as np
import simplejpeg
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile

from schemas.vocabulary import Reason
from stages.acquire.settings import AcquireSettings

#: Each known format's first bytes (and the bytes from the eighth on, for containers).
_SIGNATURES: list[tuple[str, bytes, tuple[bytes, ...]]] = [
    ("JPEG", b"\xff\xd8\xff", ()),
    ("PNG", b"\x89PNG\r\n\x1a\n", ()),
    ("GIF", b"GIF87a", ()),
    ("GIF", b"GIF89a", ()),
    ("WEBP", b"RIFF", (b"WEBP",)),
    ("BMP", b"BM", ()),
    ("TIFF", b"II*\0", ()),
    ("TIFF", b"MM\0*", ()),
    ("AVIF", b"", (b"avif", b"avis")),
]
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
_ORIENTATION = 0x0112
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
    phash: str  # 64 bits, 16 hex digits
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
    """Decodes, turns upright, brings to sRGB on white, shrinks, and encodes. The same input gives the same bytes.

    A JPEG that is small enough, plain (no metadata, no ICC profile, RGB) and whole is kept byte for byte.
    """
    sha256 = hashlib.sha256(body).hexdigest()
    form = _sniff(body)
    if form is None:
        return Refused(Reason.NOT_A_PICTURE, f"begins with {body[:16]!r}", sha256)
    if form == "JPEG" and body.count(b"\xff\xda") > _MOST_SCANS:
        return Refused(Reason.DECODE_ERROR, f"more than {_MOST_SCANS} scans", sha256)
    width = height = None
    try:
        opened = Image.open(io.BytesIO(body), formats=[form])
        width, height = opened.size
        if width * height > settings.max_pixels:
            return Refused(Reason.TOO_MANY_PIXELS, f"{width} x {height} pixels", sha256, width, height)
        if width * height < settings.min_pixels:
            return Refused(Reason.TOO_FEW_PIXELS, f"{width} x {height} pixels", sha256, width, height)
        return _store(body, opened, settings, sha256)
    except Image.DecompressionBombError:
        return Refused(Reason.TOO_MANY_PIXELS, "more pixels than any recipe allows", sha256, width, height)
    except Image.UnidentifiedImageError:
        return Refused(Reason.DECODE_ERROR, f"the {form} header is broken", sha256)
    except _BROKEN as error:
        return Refused(Reason.DECODE_ERROR, f"{form}: {type(error).__name__}: {error}", sha256, width, height)


def _sniff(body: bytes) -> str | None:
    for form, begin, brands in _SIGNATURES:
        if body.startswith(begin) and (not brands or body[8:12] in brands):
            return form
    return None


def _store(body: bytes, opened: Image.Image, settings: AcquireSettings, sha256: str) -> Picture:
    size = opened.size
    target = _fit(size, settings)
    if isinstance(opened, JpegImageFile) and opened.mode in ("RGB", "L"):
        plain = target == size and _is_plain(body, opened)
        picture = _decode_jpeg(body, opened.mode, target)
    else:
        plain = False
        opened.draft(None, target)
        opened.load()
        picture = opened
    orientation = _orientation(opened)
    picture = _flatten(picture)
    if picture.size != target:
        picture = picture.resize(target, Image.Resampling.BICUBIC)
    picture = _to_srgb(picture, opened.info.get("icc_profile"))
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    if plain:
        jpeg = body
    else:
        pixels = np.ascontiguousarray(picture)
        jpeg = simplejpeg.encode_jpeg(pixels, settings.jpeg_quality, colorspace="RGB", colorsubsampling="420")
    original = size[::-1] if orientation >= 5 else size
    return Picture(jpeg, *picture.size, *original, str(imagehash.phash(picture)), sha256)


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


def _decode_jpeg(body: bytes, mode: str, target: tuple[int, int]) -> Image.Image:
    """Decodes at the smallest of libjpeg's scales that is not smaller than `target` (width, height).

    Raises:
        ValueError: the data is broken or cut short. Stray bytes between markers, which harm nothing, are let pass.
    """
    colorspace = "GRAY" if mode == "L" else "RGB"
    width, height = target
    try:
        pixels = simplejpeg.decode_jpeg(body, colorspace, min_height=height, min_width=width)
    except ValueError as error:
        if "extraneous bytes" not in str(error):
            raise
        pixels = simplejpeg.decode_jpeg(body, colorspace, min_height=height, min_width=width, strict=False)
    return Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels)


def _orientation(opened: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    try:
        value = opened.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if value in _TURNS else 1


def _flatten(picture: Image.Image) -> Image.Image:
    """Brings any mode to RGB, L or CMYK of 8 bits, transparency laid on white.

    Raises:
        ValueError: pixels of 32 bits, whose range is not known.
    """
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture if picture.mode in ("RGB", "L", "CMYK") else picture.convert("RGB")


def _to_srgb(picture: Image.Image, icc: bytes | None) -> Image.Image:
    """Applies the picture's ICC profile; one that is broken or made for another mode counts as absent."""
    if icc:
        try:
            converted = ImageCms.applyTransform(picture, _transform(icc, picture.mode))
        except (ImageCms.PyCMSError, *_BROKEN):
            converted = None
        if converted is not None:
            return converted
    return picture.convert("RGB")


@lru_cache(maxsize=32)
def _transform(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    """A colour transform to sRGB. Most pictures share a few profiles, and building one costs more than applying it."""
    return ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(icc)), _SRGB, mode, "RGB")
