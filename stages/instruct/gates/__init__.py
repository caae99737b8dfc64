"""The gates that a language model's turns must pass, one class in one file each, found by the file's name.

To add a gate, add a file here with one subclass of `Gate`; its name in a recipe is the file's name.
"""

from __future__ import annotations

import inspect
import pkgutil
from functools import cache
from importlib import import_module

from schemas.errors import InputError
from stages.instruct.gates.base import Gate, Said, Scope

__all__ = ["GATES_VERSION", "Gate", "Said", "Scope", "find_gate", "gate_names"]

#: Raised when a gate decides otherwise than before.
GATES_VERSION = 1


@cache
def gate_names() -> tuple[str, ...]:
    """Names that a recipe can use under `instruct.gates`, in the order in which gates are asked."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if module.name != "base"]
    return tuple(sorted(names, key=lambda name: (_gate(name).place, name)))


def find_gate(name: str) -> type[Gate]:
    """The class of gate `name`.

    Raises:
        InputError: there is no such gate.
    """
    if name not in gate_names():
        raise InputError(f"unknown gate '{name}' under instruct.gates; known gates: {', '.join(gate_names())}")
    return _gate(name)


def _gate(name: str) -> type[Gate]:
    module = import_module(f"{__name__}.{name}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Gate) and member.__module__ == module.__name__
    )
