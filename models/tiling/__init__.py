"""How pictures become the squares that a vision tower takes, one class in one file each, found by the file's name.

To add a tiling, add a file here with one subclass of `Tiling`; its name in a recipe is the file's name. A recipe gives
a bare name, or the name with what it takes:

    tiling: pad
    tiling: {name: anyres, grids: [[1, 2], [2, 1], [2, 2]]}
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from models.tiling.base import NEWLINE, Tiling
from schemas.by_file import find_class, names_in
from schemas.errors import InputError
from schemas.settings import explain

__all__ = ["NEWLINE", "Tiling", "TilingSetting", "tiling_names"]


def tiling_names() -> list[str]:
    """Names that a recipe can use as `model.tiling`."""
    return names_in(__path__)


def _parse(value: Any) -> Any:
    """A tiling from what a recipe says: a name, or a mapping with the name."""
    if isinstance(value, Tiling):
        return value
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict) or "name" not in given:
        raise ValueError(f"give one of {', '.join(tiling_names())}, or a mapping with that as its 'name'")
    name = given["name"]
    try:
        found = find_class("tiling", name, tiling_names(), __name__, Tiling)
        return found.model_validate({key: inside for key, inside in given.items() if key != "name"})
    except InputError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        raise ValueError(str(explain(error, found, name))) from None


def _written(tiling: Tiling) -> dict[str, Any]:
    return {"name": tiling.name(), **tiling.model_dump(mode="json")}


#: The type of a recipe's key that names a tiling.
TilingSetting = Annotated[Tiling, BeforeValidator(_parse), PlainSerializer(_written)]
