"""DataComp's filtering strategies (Gadre et al. 2023, section 3.3), one class in one file each, found by its name.

To add one, add a file here with one subclass of `Strategy`; its name in a recipe is the file's name. A recipe gives a
bare name, or the name with what it takes:

    strategy: basic
    strategy: {clip_score: {top: 0.3}}
    strategy: {all: [basic, {any: [{text_based: {concepts: classes.txt}}, {clip_score: {top: 0.1}}]}]}
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from schemas.by_file import find_class, names_in
from schemas.errors import InputError
from schemas.settings import explain
from stages.select.strategies.base import References, Strategy

__all__ = ["References", "Strategy", "StrategySetting", "strategy_names"]


def strategy_names() -> list[str]:
    """Names that a recipe can use under `select.strategy`."""
    return names_in(__path__)


def _parse(value: Any) -> Any:
    """A strategy from what a recipe says: a name, or a mapping of one name to its settings."""
    if isinstance(value, Strategy):
        return value
    given = {value: None} if isinstance(value, str) else value
    if not isinstance(given, dict) or len(given) != 1:
        raise ValueError(f"give one strategy ({', '.join(strategy_names())}), or several under 'all' or 'any'")
    name, settings = next(iter(given.items()))
    try:
        found = find_class("strategy", name, strategy_names(), __name__, Strategy)
        return found.model_validate({} if settings is None else settings)
    except InputError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        if error.errors()[0]["type"] == "model_type":
            known = ", ".join(found.model_fields)
            raise ValueError(f"{name}: takes {f'a mapping with keys of: {known}' if known else 'nothing'}") from None
        raise ValueError(str(explain(error, found, name))) from None


def _written(strategy: Strategy) -> Any:
    inside = strategy.written()
    return strategy.name() if inside is None else {strategy.name(): inside}


#: The type of a recipe's key that names a strategy.
StrategySetting = Annotated[Strategy, BeforeValidator(_parse), PlainSerializer(_written)]
