"""Classes that stand one in a file, and go by the file's name: a new one is a new file, with nothing else to edit."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from typing import Any


def names_in(folder: Iterable[str], but: tuple[str, ...] = ("base",)) -> list[str]:
    """Names of a package's files, sorted, but for those that hold no such class.

    Args:
        folder: the package's `__path__`.
    """
    return sorted(module.name for module in pkgutil.iter_modules(folder) if module.name not in but)


def class_in(package: str, name: str, base: type) -> Any:
    """The subclass of `base` that the file `name` of `package` defines."""
    module = import_module(f"{package}.{name}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member.__module__ == module.__name__
    )
