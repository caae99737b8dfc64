"""The engines that answer requests, one class in one file each, found by the file's name."""

from __future__ import annotations

from schemas.by_file import class_in, names_in
from schemas.errors import InputError
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
    if name not in engine_names():
        raise InputError(f"unknown engine '{name}'; known engines: {', '.join(engine_names())}")
    return class_in(__name__, name, Engine)
