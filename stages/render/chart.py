"""Charts as bars, a line, slices of a pie, or a table: values, largest and smallest, differences, trends, shares."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from stages.render.base import Drawn, Question, Renderer

_COLOURS = (
    "#4e79a7",
    "#f28e2b",
    "#59a14f",
    "#e15759",
    "#76b7b2",
    "#b07aa1",
    "#9c755f",
    "#edc948",
    "#ff9da7",
    "#8c8c8c",
)
_FAMILIES = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
_GROUNDS = ("white", "#fafafa", "#f4f1ea", "#eef2f6")
_DPI = 100


class Chart(Renderer):
    """Values are written beside what shows them, or are multiples of five with a grid line at each ten."""

    def draw(self, rng: random.Random) -> Drawn:
        form = rng.choice(("bar", "line", "pie", "table"))
        subject, unit = rng.choice(self.words["subjects"])
        if form == "table":
            return self._table(subject, rng)
        if form == "line":
            times = rng.choice(self.words["times"])
            first = rng.randrange(max(1, len(times) - 8))
            labels = times[first : first + rng.randint(4, 8)]
        else:
            labels = rng.sample(rng.choice(self.words["groups"]), rng.randint(3, 6 if form == "pie" else 8))
        written = form == "pie" or rng.random() < 0.5
        values = _shares(len(labels), rng) if form == "pie" else _values(len(labels), 1 if written else 5, rng)
        truth = {"form": form, "title": subject, "unit": unit, "labels": labels, "values": values}
        said = form if form == "pie" else "chart"
        questions = _questions(truth, said)
        draws = {"bar": _bars, "line": _line, "pie": _pie}
        picture = _figure(lambda axes: draws[form](axes, truth, written, rng), subject, rng)
        kind = {"bar": "bar chart", "line": "line chart", "pie": "pie chart"}[form]
        return Drawn(picture, f"a {kind} with the title {subject}", truth, questions)

    def _table(self, subject: str, rng: random.Random) -> Drawn:
        rows = rng.sample(rng.choice(self.words["groups"]), rng.randint(3, 7))
        times = rng.choice(self.words["times"])
        first = rng.randrange(len(times) - 3)
        columns = times[first : first + rng.randint(2, 4)]
        by_column = [_values(len(rows), 1, rng) for _ in columns]
        cells = [list(row) for row in zip(*by_column, strict=True)]
        truth = {"form": "table", "title": subject, "rows": rows, "columns": columns, "cells": cells}
        questions: list[Question] = [("title", {"form": "table"}, subject)]
        for place, row in enumerate(rows):
            for at, column in enumerate(columns):
                questions.append(("cell", {"row": row, "column": column}, str(cells[place][at])))
        for column, values in zip(columns, by_column, strict=True):
            questions.append(("most", {"column": column}, rows[values.index(max(values))]))
        picture = _figure(lambda axes: _cells(axes, truth, rng), subject, rng)
        return Drawn(picture, f"a table with the title {subject}", truth, questions)


def _questions(truth: dict[str, Any], form: str) -> list[Question]:
    labels, values, unit = truth["labels"], truth["values"], truth["unit"]
    said = {"form": form, "unit": unit}
    read = "share" if truth["form"] == "pie" else "value"
    questions: list[Question] = [
        ("title", said, truth["title"]),
        ("number", said, str(len(labels))),
        ("largest", said, labels[values.index(max(values))]),
        ("smallest", said, labels[values.index(min(values))]),
    ]
    for label, value in zip(labels, values, strict=True):
        questions.append((read, said | {"label": label}, f"{value}%" if read == "share" else str(value)))
    for one, (first, before) in enumerate(zip(labels, values, strict=True)):
        for second, after in list(zip(labels, values, strict=True))[one + 1 :]:
            both = said | {"one": first, "other": second}
            if truth["form"] != "pie":
                questions.append(("difference", both, str(abs(before - after))))
                questions.append(("sum", both, str(before + after)))
            if truth["form"] == "line":
                questions.append(("trend", both, "rise" if after > before else "fall"))
    return questions


def _values(number: int, step: int, rng: random.Random) -> list[int]:
    """Distinct multiples of `step` up to 100."""
    return [step * value for value in rng.sample(range(max(1, 5 // step), 100 // step + 1), number)]


def _shares(number: int, rng: random.Random) -> list[int]:
    """Distinct whole percentages, none under 4, that add up to 100."""
    while True:
        cuts = sorted(rng.sample(range(1, 100), number - 1))
        shares = [end - begin for begin, end in zip([0, *cuts], [*cuts, 100], strict=True)]
        if len(set(shares)) == number and min(shares) >= 4:
            return shares


def _figure(draw: Callable[[Axes], None], title: str, rng: random.Random) -> Image.Image:
    """What `draw` draws on a figure of its own, with a title, whatever style the user has set for matplotlib."""
    settings = {"font.family": rng.choice(_FAMILIES), "font.size": rng.uniform(8, 11)}
    with style.context(["default", settings]):
        figure = Figure((rng.uniform(4.0, 6.0), rng.uniform(3.0, 4.4)), _DPI, facecolor=rng.choice(_GROUNDS))
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_facecolor("none")
        draw(axes)
        axes.set_title(title, fontweight=rng.choice(("normal", "bold")))
        figure.tight_layout()
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _bars(axes: Axes, truth: dict[str, Any], written: bool, rng: random.Random) -> None:
    labels, values = truth["labels"], truth["values"]
    colours = rng.sample(_COLOURS, len(labels)) if rng.random() < 0.4 else rng.choice(_COLOURS)
    upright = rng.random() < 0.6
    bars = (axes.bar if upright else axes.barh)(labels, values, color=colours)
    if upright:
        axes.tick_params(axis="x", rotation=30)
    else:
        axes.invert_yaxis()
    _scale(axes, truth, written, "y" if upright else "x")
    if written:
        axes.bar_label(bars, padding=2)


def _line(axes: Axes, truth: dict[str, Any], written: bool, rng: random.Random) -> None:
    places = range(len(truth["labels"]))
    marker, style = rng.choice(("o", "s", "^", "D")), rng.choice(("-", "--", "-."))
    axes.plot(places, truth["values"], marker=marker, linestyle=style, color=rng.choice(_COLOURS))
    axes.set_xticks(list(places), truth["labels"])
    _scale(axes, truth, written, "y")
    for place, value in zip(places, truth["values"], strict=True) if written else ():
        axes.annotate(str(value), (place, value), (0, 6), textcoords="offset points", ha="center")


def _scale(axes: Axes, truth: dict[str, Any], written: bool, side: str) -> None:
    axis = axes.yaxis if side == "y" else axes.xaxis
    (axes.set_ylim if side == "y" else axes.set_xlim)(0, 112)
    axis.set_ticks(range(0, 101, 10 if not written else 20))
    (axes.set_ylabel if side == "y" else axes.set_xlabel)(truth["unit"])
    if not written:
        axis.set_ticks(range(0, 101, 5), minor=True)
        axes.grid(axis=side, which="both", alpha=0.4)  # type: ignore[arg-type]
        axes.set_axisbelow(True)


def _pie(axes: Axes, truth: dict[str, Any], written: bool, rng: random.Random) -> None:
    hole = {"width": rng.uniform(0.45, 0.6), "edgecolor": "white"} if rng.random() < 0.4 else {"edgecolor": "white"}
    axes.pie(
        truth["values"], labels=truth["labels"], colors=rng.sample(_COLOURS, len(truth["labels"])), autopct="%d%%",
        pctdistance=0.75, startangle=rng.randrange(360), counterclock=rng.random() < 0.5, wedgeprops=hole,
    )  # fmt: skip


def _cells(axes: Axes, truth: dict[str, Any], rng: random.Random) -> None:
    axes.axis("off")
    colour = rng.choice(("#d9e2ec", "#e6e0d4", "#dfe8d8", "#ffffff"))
    table = axes.table(
        [[str(value) for value in row] for row in truth["cells"]], rowLabels=truth["rows"], colLabels=truth["columns"],
        cellLoc=rng.choice(("center", "right")), loc="center", edges=rng.choice(("closed", "horizontal")),
    )  # fmt: skip
    table.auto_set_font_size(False)
    table.scale(1, rng.uniform(1.2, 1.6))
    for (row, column), cell in table.get_celld().items():
        if row == 0 or column == -1:
            cell.set_facecolor(colour)
