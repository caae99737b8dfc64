"""Pictures that are drawn together with their questions, so that the truth is known by construction.

Each sort of picture is one class in one file, found by the file's name; see `stages.render.base`.
"""

from __future__ import annotations

from schemas.by_file import class_in, names_in
from schemas.errors import InputError
from stages.render.base import Drawn, Renderer

__all__ = ["Drawn", "Renderer", "find_renderer", "renderer_names"]


def renderer_names() -> list[str]:
    """The sorts of pictures that can be drawn; also the kinds of their turns, whose answers are exact."""
    return names_in(__path__, but=("base", "write"))


def find_renderer(name: str) -> type[Renderer]:
    """The class that draws pictures of sort `name`.

    Raises:
        InputError: there is no such sort.
    """
    if name not in renderer_names():
        raise InputError(f"there are no rendered pictures of sort '{name}'; there are: {', '.join(renderer_names())}")
    return class_in(__name__, name, Renderer)
