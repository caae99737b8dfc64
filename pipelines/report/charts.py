"""Geometry of the report's charts. The template draws it: a stretched SVG with the labels beside it as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

#: Points of a line beyond which every n-th is drawn.
_MOST_POINTS = 400
#: Colours of lines, whole and dashed, after which they come again.
_LINE_STYLES = 8


@dataclass(frozen=True)
class Tick:
    """A label on an axis; `at` is in percent of the axis, from the left or from the bottom."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A rectangle, in percent of the plot, with `top` from above; `style` names its colour."""

    left: float
    top: float
    width: float
    height: float
    style: str
    title: str


@dataclass(frozen=True)
class Line:
    """`points` is SVG's own form, in percent of the plot, from the upper left."""

    name: str
    style: str
    points: str


@dataclass(frozen=True)
class Chart:
    """What the template needs to draw a chart. `summary` says in words what it shows, for those who cannot see it."""

    summary: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    marker: Tick | None = None
    legend: list[tuple[str, str]] = field(default_factory=list)


def tick_values(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about `about` of them."""
    span = high - low or abs(high) or 1.0
    rough = span / max(1, about - 1)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def histogram_chart(
    groups: Sequence[tuple[str, str, np.ndarray]], marker: float | None, x_label: str, bins: int = 40
) -> Chart:
    """Stacked bars of how often values occur.

    Args:
        groups: (name, style, values); the first stands at the bottom. There is a value in one of them at least.
        marker: a value that is marked by a line.
    """
    everything = np.concatenate([values for _, _, values in groups])
    marked = [] if marker is None else [marker]
    low, high = float(min([everything.min(), *marked])), float(max([everything.max(), *marked]))
    width = _round_width((high - low) / bins or 0.02)
    first, last = math.floor(low / width), max(math.ceil(high / width), math.floor(low / width) + 1)
    edges = np.arange(first, last + 1) * width
    counts = [np.histogram(values, edges)[0] for _, _, values in groups]
    y_values = tick_values(0, int(np.sum(counts, axis=0).max()))
    bars, below = [], np.zeros(len(edges) - 1)
    share = 100 / (len(edges) - 1)
    for (name, style, _), group in zip(groups, counts, strict=True):
        for place in np.flatnonzero(group):
            title = f"{edges[place]:.2f} to {edges[place + 1]:.2f}: {group[place]:,} {name}"
            height = 100 * group[place] / y_values[-1]
            top = 100 - 100 * below[place] / y_values[-1] - height
            bars.append(Bar(share * float(place), top, share, height, style, title))
        below += group
    said = ", ".join(f"{group.sum():,} {name}" for (name, _, _), group in zip(groups, counts, strict=True))
    return Chart(
        summary=f"Histogram of {len(everything):,} values of {x_label} between {low:.2f} and {high:.2f}: {said}.",
        x_label=x_label,
        y_label="rows",
        x_ticks=_ticks(edges[0], edges[-1], tick_values(edges[0], edges[-1], 7)),
        y_ticks=_ticks(0, y_values[-1], y_values),
        bars=bars,
        marker=None if marker is None else Tick(_percent(marker, edges[0], edges[-1]), f"threshold {marker:.3f}"),
        legend=[(name, style) for (name, style, _), group in zip(groups, counts, strict=True) if group.sum()],
    )


def line_chart(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    marker: tuple[float, str] | None = None,
) -> Chart:
    """Lines over one axis.

    Args:
        series: (name, x, y), each with a point at least.
        marker: a place on the axis that is marked by a line, and what stands beside it.
    """
    all_x, all_y = np.concatenate([x for _, x, _ in series]), np.concatenate([y for _, _, y in series])
    floor = 0.0 if 0 <= all_y.min() < all_y.max() * 0.6 else float(all_y.min())
    y_values = tick_values(floor, float(all_y.max()))
    left, right = float(all_x.min()), float(all_x.max())
    right = right if right > left else left + 1
    lines = []
    for number, (name, x, y) in enumerate(series):
        every = math.ceil(len(x) / _MOST_POINTS)
        chosen = sorted({*range(0, len(x), every), len(x) - 1})
        points = " ".join(
            f"{_percent(x[place], left, right):.2f},{100 - _percent(y[place], y_values[0], y_values[-1]):.2f}"
            for place in chosen
        )
        lines.append(Line(name, f"line{number % _LINE_STYLES}", points))
    said = "; ".join(f"{name} from {y[0]:.4g} to {y[-1]:.4g}" for name, _, y in series)
    return Chart(
        summary=f"{y_label} by {x_label}: {said}.",
        x_label=x_label,
        y_label=y_label,
        x_ticks=_ticks(left, right, tick_values(left, right, 6)),
        y_ticks=_ticks(y_values[0], y_values[-1], y_values),
        lines=lines,
        marker=None if marker is None else Tick(_percent(marker[0], left, right), marker[1]),
        legend=[(line.name, line.style) for line in lines],
    )


def _percent(value: float, low: float, high: float) -> float:
    return 100 * (float(value) - float(low)) / (float(high) - float(low))


def _ticks(low: float, high: float, values: Sequence[float]) -> list[Tick]:
    """Those of `values` that lie on the axis, with as many digits as tell them apart."""
    inside = [value for value in values if low - 1e-9 * abs(low) <= value <= high + 1e-9 * abs(high)]
    step = values[1] - values[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    form = "{:.0e}" if digits > 4 else f"{{:,.{digits}f}}"
    labels = [form.format(value).replace("-", "\N{MINUS SIGN}") if value else "0" for value in inside]
    return [Tick(_percent(value, low, high), label) for value, label in zip(inside, labels, strict=True)]


def _round_width(rough: float) -> float:
    unit = 10.0 ** math.floor(math.log10(rough))
    return min((unit * factor for factor in (1, 2, 2.5, 5, 10)), key=lambda width: abs(math.log(width / rough)))
