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

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import create_model

from schemas.settings import Settings
from schemas.vocabulary import Reason
from stages.select.rules.base import Rule
from stages.select.rules.personal import MASK_VERSION, mask_captions

__all__ = ["MASK_VERSION", "RULES", "Rule", "RuleSettings", "apply_rules", "asked_rules", "mask_captions"]


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


def apply_rules(samples: pa.Table, settings: Settings) -> pa.Array:
    """The reason of the first rule that drops each sample, null where none does.

    Args:
        samples: as `Rule.measured` takes them; nulls break no rule.
        settings: a `RuleSettings`.
    """
    reasons = pa.nulls(samples.num_rows, pa.string())
    for rule, limit in asked_rules(settings):
        value = rule.measured(samples, limit).cast(pa.float32())
        bound = pa.scalar(rule.bound(limit), pa.float32())
        drops = pc.less(value, bound) if rule.keeps == "at_least" else pc.greater(value, bound)
        drops = pa.chunked_array([drops]) if isinstance(drops, pa.Array) else drops
        reasons = pc.if_else(pc.and_(pc.is_null(reasons), drops.fill_null(False).combine_chunks()),
                             rule.reason.value, reasons)  # fmt: skip
    return reasons
