"""Rules on a sample's own columns. A new rule is one new class here; the recipe finds it by its name.

A rule gets its limit from the recipe under `select.rules.<name>`; null or false leaves it out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, create_model

from schemas.settings import Settings
from schemas.vocabulary import Reason

#: Name in the recipe -> rule, in the order in which rules are asked.
RULES: dict[str, type[Rule]] = {}


class Rule(ABC):
    """One reason to drop a sample.

    Attributes:
        name: its key in the recipe.
        reason: what the ledger says of the samples it drops.
        limit: type and pydantic field of its value in the recipe.
    """

    name: ClassVar[str]
    reason: ClassVar[Reason]
    limit: ClassVar[tuple[Any, Any]]

    def __init_subclass__(cls) -> None:
        RULES[cls.name] = cls

    @staticmethod
    @abstractmethod
    def drops(samples: pa.Table, limit: Any) -> pa.ChunkedArray:
        """True for each row of `samples` (columns of `schemas.tables.SAMPLES`) that the rule drops."""


class MinSide(Rule):
    name = "min_side_px"
    reason = Reason.PICTURE_TOO_SMALL
    limit = (int | None, Field(None, ge=1, description="shorter side of the original picture at least, pixels"))

    @staticmethod
    def drops(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.less(pc.min_element_wise(samples["original_width"], samples["original_height"]), limit)


class MaxAspect(Rule):
    name = "max_aspect"
    reason = Reason.ASPECT_RATIO
    limit = (float | None, Field(None, ge=1, description="longer side divided by shorter side at most"))

    @staticmethod
    def drops(samples: pa.Table, limit: float) -> pa.ChunkedArray:
        width, height = (samples[name].cast(pa.float64()) for name in ("original_width", "original_height"))
        longer, shorter = pc.max_element_wise(width, height), pc.min_element_wise(width, height)
        return pc.greater(longer, pc.multiply(shorter, limit))


class MinCaptionWords(Rule):
    name = "min_caption_words"
    reason = Reason.CAPTION_SHORT
    limit = (int | None, Field(None, ge=1, description="words in the caption at least"))

    @staticmethod
    def drops(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.less(_words(samples), limit)


class MaxCaptionWords(Rule):
    name = "max_caption_words"
    reason = Reason.CAPTION_LONG
    limit = (int | None, Field(None, ge=1, description="words in the caption at most"))

    @staticmethod
    def drops(samples: pa.Table, limit: int) -> pa.ChunkedArray:
        return pc.greater(_words(samples), limit)


_NOUN = r"(image|photo|photograph|picture|pic|img|screenshot|screen ?shot|thumbnail|thumb|icon|logo|banner|avatar)"
_BOILERPLATE = "|".join(
    [
        r"\S+\.(jpe?g|png|gif|webp|bmp|tiff?|heic|svg|avif)",  # a file's name
        r"(dsc[nf]?|p|pict|imag|pxl|mvimg|vid|gopr|sam|cimg|img|wp)[-_ ]?\d[\d\-_() ]*",  # a camera's file name
        r"(https?://|www\.)\S+",  # an address
        r"[\p{N}\p{P}\s$+<=>^`|~]+",  # numbers and signs
        rf"((an?|the|my|this|no|our|stock|featured|default|profile|product|cover|preview|alt) )*{_NOUN}s?"
        r"[\s\p{N}\p{P}]*( of \d+)?",
        r"(untitled|no (title|caption|description|name)|title|caption|description|placeholder|default|blank|null|none|"
        r"nan|undefined|n/?a|unknown|loading)[\s.:#_-]*\d*",
        r"(click|tap) (here|to|for|on)\b.*",
        r"(royalty[- ]free )?stock (photo|image|picture|vector|illustration)(s|graphy)?",
    ]
)


class Boilerplate(Rule):
    """A caption that, as a whole, says nothing of the picture; one that says more beside it passes."""

    name = "boilerplate"
    reason = Reason.CAPTION_BOILERPLATE
    limit = (
        bool,
        Field(False, description="drop captions that are a file name, a number, an address or a stock phrase"),
    )

    @staticmethod
    def drops(samples: pa.Table, limit: bool) -> pa.ChunkedArray:
        return pc.match_substring_regex(
            pc.utf8_trim_whitespace(samples["caption"]), rf"^({_BOILERPLATE})$", ignore_case=True
        )


def _words(samples: pa.Table) -> pa.ChunkedArray:
    return pc.count_substring_regex(samples["caption"], r"\S+")


_LIMITS: dict[str, Any] = {name: rule.limit for name, rule in RULES.items()}

#: The section `select.rules`: one key for each rule, null or false where it is not asked.
RuleSettings = create_model("RuleSettings", __base__=Settings, __module__=__name__, **_LIMITS)


def apply_rules(samples: pa.Table, settings: Settings) -> pa.Array:
    """The reason of the first rule that drops each sample, null where none does.

    Args:
        samples: columns `caption`, `original_width`, `original_height`; nulls break no rule.
        settings: a `RuleSettings`.
    """
    reasons = pa.nulls(samples.num_rows, pa.string())
    for name, rule in RULES.items():
        limit = getattr(settings, name)
        if limit is not None and limit is not False:
            drops = pc.and_(pc.is_null(reasons), rule.drops(samples, limit).fill_null(False).combine_chunks())
            reasons = pc.if_else(drops, rule.reason.value, reasons)
    return reasons
