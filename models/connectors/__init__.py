"""Connectors: from the tower's features to the language model's embeddings.

To add one, add a file here with one subclass of `Connector`; its name in a recipe is the file's name.
"""

from __future__ import annotations

from models.connectors.base import Connector, Widths
from schemas.by_file import find_class, names_in

__all__ = ["Connector", "Widths", "connector_class", "connector_names"]


def connector_names() -> list[str]:
    """Names that a recipe can use as `model.connector`."""
    return names_in(__path__)


def connector_class(name: str) -> type[Connector]:
    """The connector of this name.

    Raises:
        InputError: there is none.
    """
    found: type[Connector] = find_class("connector", name, connector_names(), __name__, Connector)
    return found
