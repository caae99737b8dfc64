"""Composes scenes: objects with known names, places and counts on varied backgrounds, and says what they show."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from stages.sample.objects import object_paths, sprite
from stages.words import with_article

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_COLOURS = {
    "red": (214, 96, 92), "orange": (235, 165, 90), "yellow": (240, 222, 130), "green": (142, 190, 130),
    "blue": (128, 168, 216), "purple": (176, 146, 206), "pink": (240, 184, 200), "brown": (176, 148, 120),
    "grey": (178, 178, 178), "white": (246, 246, 244),
}  # fmt: skip
_TEXTURES = ("plain", "striped", "gradient", "checked", "grainy")


@dataclass(frozen=True)
class Placed:
    """One object in a scene; the box is in pixels, left, top, width, height."""

    name: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A composed picture and the whole truth about it."""

    picture: Image.Image
    objects: list[Placed]
    background: str
    captions: list[str]


def make_scene(rng: np.random.Generator, drawings: Path | None = None) -> Scene:
    """Composes one scene of 1 to 6 objects.

    Args:
        rng: all chance comes from it: the same state gives the same scene.
        drawings: the folder of the objects' pictures (see `object_paths`); OpenMoji's where None.
    """
    paths = object_paths(drawings)
    width, height = (int(side) for side in rng.integers(160, 289, size=2))
    colour, texture = str(rng.choice(list(_COLOURS))), str(rng.choice(_TEXTURES))
    picture = _background(rng, width, height, _COLOURS[colour], texture)
    objects: list[Placed] = []
    for name in _choose_names(rng, list(paths)):
        placed = _place(rng, picture, name, sprite(paths[name]), objects)
        if placed is not None:
            objects.append(placed)
    background = f"{texture} {colour} background"
    return Scene(picture, objects, background, _captions(rng, objects, background))


def _choose_names(rng: np.random.Generator, kinds: list[str]) -> list[str]:
    """Between 1 and 6 names, often with one of them several times."""
    total = int(rng.integers(1, 7))
    names: list[str] = []
    while len(names) < total:
        repeat = int(rng.integers(2, 5)) if rng.random() < 0.3 else 1
        names += [str(rng.choice(kinds))] * min(repeat, total - len(names))
    return names


def _place(
    rng: np.random.Generator, picture: Image.Image, name: str, drawing: Image.Image, others: list[Placed]
) -> Placed | None:
    """Paints `drawing` where it hides no other object; None where there is no room left for it."""
    for attempt in range(40):
        share = rng.uniform(0.24, 0.40) * (1.0 if attempt < 20 else 0.75)
        scale = share * min(picture.size) / max(drawing.size)
        size = max(4, round(drawing.width * scale)), max(4, round(drawing.height * scale))
        x = int(rng.integers(0, picture.width - size[0] + 1))
        y = int(rng.integers(0, picture.height - size[1] + 1))
        box = (x, y, *size)
        if all(_overlap(box, other.box) < 0.05 for other in others):
            small = drawing.resize(size, Image.Resampling.BILINEAR)
            picture.paste(small, (x, y), small)
            return Placed(name, box)
    return None


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """The common area of two boxes as a share of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height) / min(a[2] * a[3], b[2] * b[3])


def _background(
    rng: np.random.Generator, width: int, height: int, colour: tuple[int, ...], texture: str
) -> Image.Image:
    base = np.array(colour, np.float32) + rng.uniform(-12, 12, size=3)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    shade = np.zeros((height, width), np.float32)
    if texture == "striped":
        angle = rng.uniform(0, np.pi)
        period = rng.uniform(14, 40)
        shade = 14 * np.sign(np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period))
    elif texture == "gradient":
        angle = rng.uniform(0, 2 * np.pi)
        shade = 40 * ((x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle))
    elif texture == "checked":
        period = int(rng.integers(12, 32))
        shade = 12 * ((((x // period) + (y // period)) % 2) * 2 - 1)
    elif texture == "grainy":
        shade = rng.normal(0, 9, size=(height, width)).astype(np.float32)
    pixels = np.clip(base + shade[..., None], 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _captions(rng: np.random.Generator, objects: list[Placed], background: str) -> list[str]:
    """Five ways of saying what the scene shows. Each names every kind of object."""
    counts = Counter(placed.name for placed in objects)
    named = [_counted(name, number) for name, number in counts.items()]
    shuffled = [named[index] for index in rng.permutation(len(named))]
    verb = "is" if len(objects) == 1 else "are"
    return [
        f"A picture of {_listed(named)}.",
        f"There {verb} {_listed(shuffled)} on a {background}.",
        f"{_listed(named[::-1])} in front of a {background}.".capitalize(),
        f"A drawing with {_NUMBERS[len(objects)]} {'object' if len(objects) == 1 else 'objects'}: {_listed(shuffled)}.",
        _where(objects, counts, named),
    ]


def _where(objects: list[Placed], counts: Counter[str], named: list[str]) -> str:
    """A caption that says how two objects that are there once stand to each other."""
    single = [placed for placed in objects if counts[placed.name] == 1]
    first, other = (single[0], single[1]) if len(single) > 1 else (objects[0], None)
    if other is None:
        return f"The picture shows {_listed(named)}."
    x_apart = (first.box[0] + first.box[2] / 2) - (other.box[0] + other.box[2] / 2)
    y_apart = (first.box[1] + first.box[3] / 2) - (other.box[1] + other.box[3] / 2)
    if abs(x_apart) > abs(y_apart):
        relation = "to the right of" if x_apart > 0 else "to the left of"
    else:
        relation = "below" if y_apart > 0 else "above"
    rest = [said for name, said in zip(counts, named, strict=True) if name not in (first.name, other.name)]
    more = f", with {_listed(rest)}" if rest else ""
    return f"{with_article(first.name)} {relation} {with_article(other.name)}{more}.".capitalize()


@cache
def _plural(name: str) -> str:
    import inflect

    return inflect.engine().plural_noun(name) or name


def _counted(name: str, number: int) -> str:
    return with_article(name) if number == 1 else f"{_NUMBERS[number]} {_plural(name)}"


def _listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
