"""Connectors: from the tower's features to the language model's embeddings.

To add one, add a file here with one subclass of `Connector`; its name in a recipe is the file's name.
"""

from __future__ import annotations

import difflib

from models.connectors.base import Connector, Widths
from schemas.by_file import class_in, names_in
from schemas.errors import InputError

__all__ = ["Connector", "Widths", "connector_class", "connector_names"]


def connector_names() -> list[str]:
    """Names that a recipe can use as `model.connector`."""
    return names_in(__path__)


def connector_class(name: str) -> type[Connector]:
    """The connector of this name.

    Raises:
        InputError: there is none.
    """
    if name not in connector_names():
        near = difflib.get_close_matches(name, connector_names(), n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"model.connector: '{name}' is not known; {hint}known: {', '.join(connector_names())}")
    return class_in(__name__, name, Connector)
