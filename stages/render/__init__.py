"""Pictures that are drawn together with their questions, so that the truth is known by construction.

Each sort of picture is one class in one file, found by the file's name; see `stages.render.base`.
"""

from __future__ import annotations

from schemas.by_file import find_class, names_in
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
    found: type[Renderer] = find_class("rendered picture", name, renderer_names(), __name__, Renderer)
    return found
