"""Clocks with hands (PixMo-Clocks, Deitke et al. 2024): the time, its parts, and a time some minutes later."""

from __future__ import annotations

import math
import random
from typing import Any

from PIL import Image, ImageDraw

from stages.render.base import FONTS, Drawn, Question, Renderer, font

_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")
_DARK = ("#1b1b1b", "#22304d", "#4a1f1f", "#1f3d2b", "#3d2b1f")
_LIGHT = ("#ffffff", "#fbf3e0", "#e8eef5", "#f5e8e8", "#e9f3e6")
_GROUNDS = ("#9fb4c7", "#d9c7a3", "#7d8f7a", "#c9b1bd", "#5c6470", "#efe6d8")
#: Drawn so many times larger, for smooth edges.
_LARGER = 3


class Clock(Renderer):
    """Dials of many styles: numerals or none, square or round, two hands or three."""

    def draw(self, rng: random.Random) -> Drawn:
        hour, minute = rng.randint(1, 12), rng.randrange(60)
        second = rng.randrange(60) if rng.random() < 0.3 else None
        truth = {"hour": hour, "minute": minute, "second": second}
        later = rng.choice((5, 10, 15, 20, 25, 30, 40, 45, 50, 60, 90))
        shown = f"{hour}:{minute:02d}"
        questions: list[Question] = [
            ("time", {}, shown),
            ("hour", {}, str(hour)),
            ("minute", {}, str(minute)),
            ("later", {"minutes": str(later)}, _after(hour, minute, later)),
        ]
        if second is not None:
            questions.append(("second", {}, str(second)))
        return Drawn(_picture(truth, rng), f"a clock that shows {shown}", truth, questions)


def _after(hour: int, minute: int, minutes: int) -> str:
    whole = hour * 60 + minute + minutes
    return f"{(whole // 60 - 1) % 12 + 1}:{whole % 60:02d}"


def _picture(truth: dict[str, Any], rng: random.Random) -> Image.Image:
    width, height = rng.randint(224, 400), rng.randint(224, 400)
    ink, face = (_DARK, _LIGHT) if rng.random() < 0.8 else (_LIGHT, _DARK)
    colour, ground = rng.choice(ink), rng.choice(_GROUNDS)
    large = (width * _LARGER, height * _LARGER)
    picture = Image.new("RGB", large, ground)
    pen = ImageDraw.Draw(picture)
    radius = min(large) * rng.uniform(0.36, 0.47)
    centre = (large[0] - 2 * radius) * rng.random() + radius, (large[1] - 2 * radius) * rng.random() + radius
    frame = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
    rim = round(radius * rng.uniform(0.02, 0.08))
    if rng.random() < 0.75:
        pen.ellipse(frame, rng.choice(face), colour, rim)
    else:
        pen.rectangle(frame, rng.choice(face), colour, rim)
    _dial(pen, centre, radius, colour, rng)
    minutes = truth["minute"] + (truth["second"] or 0) / 60
    hours = truth["hour"] + minutes / 60
    broad = radius * rng.uniform(0.05, 0.09)
    _hand(pen, centre, hours / 12, radius * rng.uniform(0.42, 0.52), broad, colour)
    _hand(pen, centre, minutes / 60, radius * rng.uniform(0.68, 0.82), broad * 0.6, colour)
    if truth["second"] is not None:
        _hand(pen, centre, truth["second"] / 60, radius * 0.85, radius * 0.015, "#c0392b")
    _spot(pen, centre, broad * 0.8, colour)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _dial(
    pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: str, rng: random.Random
) -> None:
    every_minute = rng.random() < 0.6
    for tick in range(60):
        long = tick % 5 == 0
        if long or every_minute:
            ends = [_at(centre, tick / 60, radius * share) for share in (0.86 if long else 0.9, 0.94)]
            pen.line(ends, colour, max(1, round(radius * (0.025 if long else 0.01))))
    numerals = rng.choice(("arabic", "arabic", "roman", "quarters", "none"))
    letters = font(rng.choice(FONTS), round(radius * rng.uniform(0.13, 0.18)), bold=rng.random() < 0.5)
    for hour in range(1, 13):
        if numerals == "none" or (numerals == "quarters" and hour % 3):
            continue
        text = _ROMAN[hour - 1] if numerals == "roman" else str(hour)
        pen.text(_at(centre, hour / 12, radius * 0.72), text, colour, letters, anchor="mm")


def _hand(
    pen: ImageDraw.ImageDraw, centre: tuple[float, float], turn: float, length: float, width: float, colour: str
) -> None:
    pen.line([_at(centre, turn + 0.5, length * 0.15), _at(centre, turn, length)], colour, max(2, round(width)))


def _spot(pen: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: str) -> None:
    pen.ellipse([centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius], colour)


def _at(centre: tuple[float, float], turn: float, radius: float) -> tuple[float, float]:
    """The place at `radius` from the centre, `turn` (0 to 1) clockwise from the top."""
    angle = 2 * math.pi * turn
    return centre[0] + radius * math.sin(angle), centre[1] - radius * math.cos(angle)
