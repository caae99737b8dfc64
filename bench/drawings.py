"""Drawings by other hands than the known world's: Twemoji (graphics CC BY 4.0, github.com/jdecked/twemoji), as SVG from
npm's package @twemoji/svg, under the names that the package `emoji` gives them."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from schemas.errors import InputError

PACKAGE = "@twemoji/svg@15.0.0"
#: Some sorts of one drawing, which no name tells apart in a picture of 64 pixels.
_VARIANT = "skin tone"


def twemoji(folder: Path) -> Path:
    """Fills `folder` with NAME.svg for every drawing that has a name (1,870), unless that is done; returns it.

    Raises:
        InputError: npm is not there or does not get the package.
    """
    if folder.is_dir():
        return folder
    if shutil.which("npm") is None:
        raise InputError(f"the drawings are npm's package {PACKAGE}, and npm is not installed: apt install npm")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        got = subprocess.run(
            ["npm", "pack", "--silent", PACKAGE], cwd=work, capture_output=True, text=True, check=False
        )
        archives = list(Path(work).glob("*.tgz"))
        if got.returncode or not archives:
            raise InputError(f"npm pack {PACKAGE} failed: {got.stderr.strip()}; is npm's registry reachable?")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(work, filter="data")
        named = Path(work, "named")
        named.mkdir()
        for file, name in _names(Path(work, "package")):
            shutil.copyfile(file, named / f"{name}.svg")
        named.rename(folder)
    return folder


def _names(drawings: Path) -> list[tuple[Path, str]]:
    """Each drawing that has a name, with it. Files are named by their code points, without the variation selector."""
    import emoji

    found = []
    for character, about in emoji.EMOJI_DATA.items():
        name = about["en"].strip(":").replace("_", " ").replace("’", "'").lower()
        code = "-".join(f"{ord(each):x}" for each in character)
        files = [drawings / f"{each}.svg" for each in (code, code.replace("-fe0f", ""))]
        file = next((each for each in files if each.is_file()), None)
        if about["status"] == emoji.STATUS["fully_qualified"] and file is not None and _VARIANT not in name:
            found.append((file, name))
    return found
