"""Puts the sections into the page and writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipelines.recipe import Recipe
from pipelines.report.material import Material
from pipelines.report.sections.contamination import contamination
from pipelines.report.sections.conversations import conversations
from pipelines.report.sections.duplicates import duplicates
from pipelines.report.sections.evaluation import evaluation
from pipelines.report.sections.funnel import funnel
from pipelines.report.sections.gallery import gallery
from pipelines.report.sections.headline import headline
from pipelines.report.sections.instruct import instruct
from pipelines.report.sections.provenance import provenance
from pipelines.report.sections.scores import scores
from pipelines.report.sections.thresholds import thresholds
from pipelines.report.sections.training import training
from stages.run_folder import RunFolder
from stages.store import write_atomically

_HERE = Path(__file__).parent
#: Letters of a caption, message or address that are shown.
_MOST_LETTERS = 200
#: Of an address that is longer than both together: letters from its begin, and from its end.
_URL_ENDS = (22, 18)

#: Name, heading, the stage that makes its data, and where that comes from; in the order of the page.
_SECTIONS: list[tuple[str, str, str, Callable[[Material], Any]]] = [
    ("funnel", "What was kept, and why the rest was not", "select", funnel),
    ("evaluation", "What the model can do", "evaluate", evaluation),
    ("scores", "CLIP scores", "select", scores),
    ("thresholds", "What each threshold drops", "select", thresholds),
    ("gallery", "Kept and dropped pictures", "acquire", gallery),
    ("duplicates", "Duplicates", "select", duplicates),
    ("contamination", "What is near evaluation sets", "select", contamination),
    ("instruct", "What is said of the pictures", "instruct", instruct),
    ("conversations", "Conversations as the model sees them", "instruct", conversations),
    ("training", "Training", "train", training),
]


def write_report(run: RunFolder) -> int:
    """Writes RUN/report.html from what the run folder holds so far; returns its size in bytes.

    The page needs no network and runs no script. What is not there yet is replaced by a line that says which stage
    makes it.

    Raises:
        InputError: the folder holds no recipe.
        SluiceError: a file of the run cannot be read, or the page cannot be written.
    """
    data = render(Material(run)).encode("utf-8", "replace")
    write_atomically(run.path("report.html"), data)
    return len(data)


def render(material: Material) -> str:
    """The page. All values are escaped by the template engine: captions and addresses come from the web."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "figure": _figure,
        "percent": _percent,
        "points": _points,
        "short": _shorten,
        "place": _place,
    }
    made = [
        {"name": name, "heading": heading, "data": make(material), "absent": _absent(name, stage, material.recipe)}
        for name, heading, stage, make in _SECTIONS
    ]
    return environment.get_template("page.html.jinja").render(
        css=(_HERE / "page.css").read_text(),
        headline=headline(material),
        sections=made,
        provenance=provenance(material),
    )


def _absent(name: str, stage: str, recipe: Recipe) -> str:
    """Why a section is not there."""
    left_out = {
        "evaluation": recipe.evaluate is None and "this recipe has no section evaluate",
        "contamination": not recipe.select.decontaminate and "this recipe names no evaluation sets",
        "instruct": recipe.model is None and "this recipe trains no language model",
        "conversations": recipe.model is None and "this recipe trains no language model",
        "training": not recipe.train and "this recipe has no training steps",
    }
    return left_out.get(name) or f"not there yet: the stage {stage} makes it"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.3g}"


def _figure(value: float) -> str:
    """A measure: with four digits, and whole numbers as such."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def _points(share: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}")


def _shorten(text: str | None, most: int = _MOST_LETTERS) -> str:
    text = text or ""
    return text if len(text) <= most else text[: most - 1] + "…"


def _place(url: str | None) -> str:
    """An address as it is printed: without http, and without its middle where it is long."""
    text = (url or "(no address)").removeprefix("http://").removeprefix("https://")
    return text if len(text) <= _URL_ENDS[0] + _URL_ENDS[1] else f"{text[: _URL_ENDS[0]]}…{text[-_URL_ENDS[1] :]}"
