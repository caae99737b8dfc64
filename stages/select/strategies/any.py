"""Keeps what at least one of several strategies keeps."""

from __future__ import annotations

import numpy as np

from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.dedup import Verdicts
from stages.select.strategies.all import AllOf
from stages.select.strategies.base import References, new_measure


class AnyOf(AllOf):
    """The union of a list of strategies.

    Its measure, `strategy`, is the number of them that keep a row. Their own thresholds drop nothing by themselves, so
    they are not among the run's thresholds; what they measure is kept.
    """

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        keep = np.zeros(len(rows), np.float32)
        for number, strategy in enumerate(self.of):
            alone = Candidates(rows.samples, rows.vectors, Verdicts(np.full(len(rows), None)), rows.measures)
            strategy.ask(alone, f"{key}.{number}.{strategy.name()}", references)
            keep += alone.alive()
        rows.measure(measure := new_measure(rows, "strategy"), keep)
        rows.ask(key, measure, "at_least", 1.0, Reason.STRATEGY)
