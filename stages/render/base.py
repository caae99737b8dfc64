"""What draws a picture and asks questions about it."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from matplotlib import get_data_path
from PIL import Image, ImageFont

from schemas.conversation import Turn

#: A question: its form (a key of the word list), what its phrasing names, and the exact answer.
Question = tuple[str, dict[str, str], str]

#: Least and most turns of one picture's conversation.
TURNS = (2, 4)
FONTS = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono")


@dataclass(frozen=True)
class Drawn:
    """A picture (RGB) with what it shows.

    Attributes:
        truth: what was drawn, JSON-able; questions follow from it.
        questions: all that can be asked of it.
    """

    picture: Image.Image
    caption: str
    truth: dict[str, Any]
    questions: list[Question]


class Renderer(ABC):
    """A sort of picture. Its words lie in `words/<name>.yaml`: lists of names, and phrasings by form of question."""

    @property
    def name(self) -> str:
        """The name of the file that the class stands in."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def words(self) -> dict[str, Any]:
        return _words(self.name)

    @abstractmethod
    def draw(self, rng: random.Random) -> Drawn:
        """A picture. All chance comes from `rng`."""

    def turns(self, drawn: Drawn, rng: random.Random) -> list[Turn]:
        """Two to four of the questions, each of another form, with their answers."""
        by_form: dict[str, list[Question]] = {}
        for question in drawn.questions:
            by_form.setdefault(question[0], []).append(question)
        number = min(rng.randint(*TURNS), len(by_form))
        chosen = [rng.choice(by_form[form]) for form in rng.sample(sorted(by_form), number)]
        return [Turn(rng.choice(self.words[form]).format(**named), answer, self.name) for form, named, answer in chosen]


def font(name: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """One of `FONTS` (they come with matplotlib), in pixels."""
    path = Path(get_data_path(), "fonts", "ttf", f"{name}{'-Bold' if bold else ''}.ttf")
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def _words(name: str) -> dict[str, Any]:
    return yaml.safe_load((files("stages.render") / "words" / f"{name}.yaml").read_text())
