"""The engines that answer requests, one class in one file each, found by the file's name."""

from __future__ import annotations

from schemas.by_file import find_class, names_in
from stages.instruct.endpoint.engines.base import Engine, NotStructuredError

__all__ = ["Engine", "NotStructuredError", "engine_names", "find_engine"]


def engine_names() -> list[str]:
    """Names that a recipe can use as `instruct.endpoint.engine`."""
    return names_in(__path__)


def find_engine(name: str) -> type[Engine]:
    """The class of engine `name`.

    Raises:
        InputError: there is no such engine.
    """
    found: type[Engine] = find_class("engine", name, engine_names(), __name__, Engine)
    return found
