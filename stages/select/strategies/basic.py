"""DataComp's "basic filtering": English captions of some length, pictures of some size."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.rules import RULES
from stages.select.rules.language import detect_languages
from stages.select.strategies.base import References, Strategy

#: Rules with DataComp's limits: more than two words, shorter side at least 200 pixels, aspect at most 3.
_LIMITS = {"min_caption_words": 3, "min_side_px": 200, "max_aspect": 3.0}
_MIN_CHARACTERS = 6
_LANGUAGE = "en"


class Basic(Strategy):
    """An English caption of more than two words and five characters; shorter side at least 200 px, aspect at most 3.

    The language is the likeliest one that fastText's lid.176 in its small form finds.
    """

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        if "caption_english" not in rows.measures:
            languages = detect_languages(rows.samples["caption"])
            rows.measure("caption_english", pc.equal(languages, _LANGUAGE))
            rows.measure("caption_characters", pc.utf8_length(rows.samples["caption"]))
        rows.ask(f"{key}.language", "caption_english", "at_least", 1.0, Reason.CAPTION_LANGUAGE)
        rows.ask(f"{key}.characters", "caption_characters", "at_least", _MIN_CHARACTERS, Reason.CAPTION_SHORT)
        for name, limit in _LIMITS.items():
            rule = RULES[name]
            if rule.measure not in rows.measures:
                rows.measure(rule.measure, rule.measured(rows.samples, limit))
            rows.ask(f"{key}.{name}", rule.measure, rule.keeps, np.float32(limit).item(), rule.reason)
