"""DataComp's "CLIP score filtering": the cosine of picture and caption, absolute or the best share."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from schemas.vocabulary import Reason
from stages.select.candidates import Candidates
from stages.select.score import ask_clip
from stages.select.settings import KeepSettings
from stages.select.strategies.base import References, Strategy, new_measure


class ClipScore(Strategy, KeepSettings):
    """Scores of one model from a cosine on, or the best share of all, of each language or of each source.

    The measure of the model NAME is `clip_score_NAME`. A score that is not a number is a reason of its own.
    """

    model: str | None = Field(default=None, description="a name of select.models; the model of select.clip where null")

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        measure = f"clip_score_{self.model}" if self.model else "clip_score"
        if measure not in rows.measures:
            scores = rows.scores(self.model_name())
            rows.measure(measure, np.where(np.isfinite(scores), scores, np.float32(np.nan)))
        rows.drop(np.isnan(rows.measures[measure]), Reason.BAD_VECTOR)
        if self.by != "all" and f"{measure}_margin" in rows.measures:
            scores = rows.measures[measure]
            rows.measure(measure := new_measure(rows, measure), scores)
        ask_clip(rows, self, key, measure)

    def model_name(self) -> str:
        return self.model or ""

    def needs_all_rows(self) -> str | None:
        return None if self.top is None else "give clip_score: {min: COSINE}"
