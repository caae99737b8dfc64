"""The gates that a language model's turns must pass, one class in one file each, found by the file's name.

To add a gate, add a file here with one subclass of `Gate`; its name in a recipe is the file's name.
"""

from __future__ import annotations

from functools import cache

from schemas.by_file import class_in, names_in
from schemas.errors import InputError
from stages.instruct.gates.base import Gate, Said, Scope

__all__ = ["GATES_VERSION", "Gate", "Said", "Scope", "find_gate", "gate_names"]

#: Raised when a gate decides otherwise than before.
GATES_VERSION = 1


@cache
def gate_names() -> tuple[str, ...]:
    """Names that a recipe can use under `instruct.gates`, in the order in which gates are asked."""
    return tuple(sorted(names_in(__path__), key=lambda name: (_gate(name).place, name)))


def find_gate(name: str) -> type[Gate]:
    """The class of gate `name`.

    Raises:
        InputError: there is no such gate.
    """
    if name not in gate_names():
        raise InputError(f"unknown gate '{name}' under instruct.gates; known gates: {', '.join(gate_names())}")
    return _gate(name)


def _gate(name: str) -> type[Gate]:
    return class_in(__name__, name, Gate)
