"""The rule on captions that say nothing of the picture."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from schemas.vocabulary import Reason
from stages.select.rules.base import Rule

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
    measure = "caption_boilerplate"
    keeps = "at_most"

    @staticmethod
    def measured(samples: pa.Table, limit: bool) -> pa.ChunkedArray:
        return pc.match_substring_regex(
            pc.utf8_trim_whitespace(samples["caption"]), rf"^({_BOILERPLATE})$", ignore_case=True
        )

    @classmethod
    def bound(cls, limit: bool) -> float:
        return 0.0
