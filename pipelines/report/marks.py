"""Points and boxes that questions and answers hold, to be drawn on their picture."""

from __future__ import annotations

import re
from dataclasses import dataclass

_POINTS = re.compile(r"<points?\s[^<>]*>")
_POINT = re.compile(r'\bx(\d*)="(\d{1,3}(?:\.\d+)?)"\s+y\1="(\d{1,3}(?:\.\d+)?)"')
_NUMBER = r"\s*([01](?:\.\d+)?)\s*"
_CORNERS = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]", re.ASCII)
_TOKENS = re.compile(r"<loc(\d{4})>" * 4, re.ASCII)
_BINS = 1024


@dataclass(frozen=True)
class Mark:
    """A box in shares of the picture's sides; a point is a box without width and height."""

    x: float
    y: float
    w: float = 0.0
    h: float = 0.0

    @property
    def point(self) -> bool:
        return self.w == 0 and self.h == 0


def marks_in(text: str) -> list[Mark]:
    """Points in PixMo's form (0 to 100), corners `[x1, y1, x2, y2]` as shares, and boxes of four location tokens.

    What lies outside the picture or has its corners the wrong way round is left out.
    """
    found = [Mark(float(x) / 100, float(y) / 100) for tag in _POINTS.findall(text) for _, x, y in _POINT.findall(tag)]
    corners = [tuple(map(float, box)) for box in _CORNERS.findall(text)]
    for upper, left, lower, right in _TOKENS.findall(text):
        corners.append((int(left) / _BINS, int(upper) / _BINS, (int(right) + 1) / _BINS, (int(lower) + 1) / _BINS))
    found += [Mark(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners if x1 < x2 and y1 < y2]
    return [mark for mark in found if mark.x + mark.w <= 1 and mark.y + mark.h <= 1]
