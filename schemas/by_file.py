"""Classes that stand one in a file, and go by the file's name: a new one is a new file, with nothing else to edit."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from schemas.errors import InputError


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


def find_class(what: str, name: str, known: Sequence[str], package: str, base: type) -> Any:
    """`class_in`, where `name` is one of `known`.

    Args:
        what: the word for such a class, for the message.

    Raises:
        InputError: it is none of them; names the nearest.
    """
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"there is no {what} '{name}'; {hint}known: {', '.join(known)}")
    return class_in(package, name, base)
