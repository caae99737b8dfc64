"""Rules on a sample's own columns, one concept in one file each. A new rule is one new class in a file of this folder.

A rule gets its limit from the recipe under `select.rules.<name>`; null or false leaves it out. Rules are asked in the
order of their reasons in `schemas.vocabulary`.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pydantic import create_model

from schemas.settings import Settings
from schemas.vocabulary import Reason
from stages.select.rules.base import Rule
from stages.select.rules.personal import MASK_VERSION, mask_captions

__all__ = ["MASK_VERSION", "RULES", "Rule", "RuleSettings", "asked_rules", "mask_captions"]


def _find_rules() -> dict[str, type[Rule]]:
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [
        member
        for module in modules
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, Rule) and not inspect.isabstract(member) and member.__module__ == module.__name__
    ]
    order = list(Reason)
    return {rule.name: rule for rule in sorted(found, key=lambda rule: (order.index(rule.reason), rule.name))}


#: Name in the recipe -> rule, in the order in which rules are asked.
RULES: dict[str, type[Rule]] = _find_rules()

_LIMITS: dict[str, Any] = {name: rule.limit for name, rule in RULES.items()}

#: The section `select.rules`: one key for each rule, null or false where it is not asked.
RuleSettings = create_model("RuleSettings", __base__=Settings, __module__=__name__, **_LIMITS)


def asked_rules(settings: Settings) -> Iterator[tuple[type[Rule], Any]]:
    """The rules that a `RuleSettings` asks for, each with its limit, in order."""
    for name, rule in RULES.items():
        if rule.asked(limit := getattr(settings, name)):
            yield rule, limit
