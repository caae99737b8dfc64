"""The engines that answer requests, one class in one file each, found by the file's name."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

from schemas.errors import InputError
from stages.instruct.endpoint.engines.base import Engine, NotStructuredError

__all__ = ["Engine", "NotStructuredError", "engine_names", "find_engine"]


def engine_names() -> list[str]:
    """Names that a recipe can use as `instruct.endpoint.engine`."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def find_engine(name: str) -> type[Engine]:
    """The class of engine `name`.

    Raises:
        InputError: there is no such engine.
    """
    if name not in engine_names():
        raise InputError(f"unknown engine '{name}'; known engines: {', '.join(engine_names())}")
    module = import_module(f"{__name__}.{name}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Engine) and member.__module__ == module.__name__
    )
