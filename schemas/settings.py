"""The base of every section of a recipe: strict, frozen, and helpful about misspelt keys."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from schemas.errors import InputError

#: What pydantic puts into an error's place for the branch of a union that it tried.
_BRANCH = re.compile(r"\w+Settings|int|float|str|.+\[.+\]")


class Settings(BaseModel):
    """A section of the recipe. Unknown keys are refused; values cannot be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def explain(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """Turns pydantic's first complaint into one line: file, key, what is wrong, what would be right."""
    # A misspelt key is often also a missing one: the misspelling says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    path = list(first["loc"])
    key = ".".join(str(part) for part in path if not _BRANCH.fullmatch(str(part)))
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known keys here: {', '.join(sorted(known)) or 'none'}"
        return InputError(f"{where}: unknown key '{key}'; {hint}")
    if first["type"] == "missing":
        return InputError(f"{where}: key '{key}' is missing")
    got = first.get("input")
    shown = f" (got {got!r})" if isinstance(got, str | int | float | bool) else ""
    said = first["msg"].removeprefix("Value error, ")
    return InputError(f"{where}: '{key}': {said}{shown}" if key else f"{where}: {said}")


def _keys_at(model: Any, path: list[int | str]) -> list[str]:
    """Names of the keys that the section at `path` of `model` knows."""
    current: list[Any] = [model]
    for part in path:
        following: list[Any] = []
        for candidate in current:
            fields = getattr(candidate, "model_fields", None)
            if fields and part in fields:
                following += _models_in(fields[part].annotation)
            elif fields is not None and not isinstance(part, int):
                following.append(candidate)  # a union's branch label, not a key
            elif isinstance(part, int):
                following.append(candidate)
        current = following or current
    return sorted({name for candidate in current for name in getattr(candidate, "model_fields", {})})


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[Any] = []
    for argument in getattr(annotation, "__args__", ()):
        found += _models_in(argument)
    return found
