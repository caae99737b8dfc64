"""DataComp's filtering strategies (Gadre et al. 2023, section 3.3), one class in one file each, found by its name.

To add one, add a file here with one subclass of `Strategy`; its name in a recipe is the file's name. A recipe gives a
bare name, or the name with what it takes:

    strategy: basic
    strategy: {clip_score: {top: 0.3}}
    strategy: {all: [basic, {any: [{text_based: {concepts: classes.txt}}, {clip_score: {top: 0.1}}]}]}
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, ValidationError

from schemas.by_file import class_in, names_in
from schemas.settings import explain
from stages.select.strategies.base import References, Strategy

__all__ = ["References", "Strategy", "StrategySetting", "strategy_names"]


def strategy_names() -> list[str]:
    """Names that a recipe can use under `select.strategy`."""
    return names_in(__path__)


def _find_strategy(name: str) -> type[Strategy]:
    return class_in(__name__, name, Strategy)


def _parse(value: Any) -> Any:
    """A strategy from what a recipe says: a name, or a mapping of one name to its settings."""
    if isinstance(value, Strategy):
        return value
    given = {value: None} if isinstance(value, str) else value
    if not isinstance(given, dict) or len(given) != 1:
        raise ValueError(f"give one strategy ({', '.join(strategy_names())}), or several under 'all' or 'any'")
    name, settings = next(iter(given.items()))
    if name not in strategy_names():
        near = difflib.get_close_matches(str(name), strategy_names(), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"strategies: {', '.join(strategy_names())}"
        raise ValueError(f"there is no strategy '{name}'; {hint}")
    found = _find_strategy(name)
    try:
        return found.model_validate({} if settings is None else settings)
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
