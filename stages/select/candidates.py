"""The rows that select decides on, what was measured of them, and the thresholds that they have met so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import SluiceError
from schemas.vocabulary import Reason
from stages.select.dedup import Verdicts
from stages.select.rules.base import Keeps


@dataclass(frozen=True)
class Threshold:
    """One comparison that rows met.

    Attributes:
        name: the recipe's key, under `select`.
        measure: the column of `scores.parquet` that was compared.
        keeps: `at_least`: rows that measure less than `value` are dropped; `at_most`: rows that measure more.
        value: compared in float32, as the measures are.
        reason: what the ledger says of the rows it dropped.
        reached: rows that were not dropped before it; those without the measure are among them and pass.
        dropped: rows that it dropped.
        groups: where each group has a lowest score of its own and `measure` is the distance from it: the largest
            groups' lowest scores.
    """

    name: str
    measure: str
    keeps: Keeps
    value: float
    reason: str
    reached: int
    dropped: int
    groups: dict[str, float] | None = None

    def to_row(self) -> dict[str, Any]:
        """JSON-able; without `groups` where there are none."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass
class Candidates:
    """Every row of the run by `row`, and what is decided of it so far. Places are indexes into `samples`.

    Attributes:
        samples: `schemas.tables.SAMPLES` with a column `part`; in the order of `row`.
            Rows that are `text_only` are neither measured nor asked: select keeps them.
        vectors: model -> `schemas.tables.vectors(dim)`, a row for each sample with a picture, in any order; the model
            that `select.clip` names is "". The column `vector` is there where something asks for it.
        verdicts: reasons so far, those of earlier stages first.
        measures: name -> float32 [rows], NaN where not measured: the columns of `scores.parquet`.
        thresholds: those that were asked, in order.
    """

    samples: pa.Table
    vectors: Mapping[str, pa.Table]
    verdicts: Verdicts
    measures: dict[str, np.ndarray] = field(default_factory=dict)
    thresholds: list[Threshold] = field(default_factory=list)

    @classmethod
    def of(cls, samples: pa.Table, vectors: Mapping[str, pa.Table]) -> Candidates:
        """Puts the rows in order; those that earlier stages dropped have their reason already.

        Raises:
            SluiceError: a sample whose `reason` is null has no vector.
        """
        samples = samples.sort_by("row").combine_chunks()
        made = cls(samples, vectors, Verdicts(samples["reason"].to_numpy().copy()))
        pictured = made.alive()
        for model in vectors:
            lost = np.flatnonzero(pictured & (made.places_in(model) < 0))
            if len(lost):
                name = samples["sample_id"][int(lost[0])]
                by = f" by select.models.{model}" if model else ""
                raise SluiceError(f"select: sample {name} has a picture but no vector{by}; run the embed stage again")
        return made

    def __len__(self) -> int:
        return self.samples.num_rows

    def alive(self) -> np.ndarray:
        """bool [rows]: what has a picture and is not dropped so far."""
        kept = pc.is_null(pa.array(self.verdicts.reason, pa.string())).to_numpy(zero_copy_only=False)
        return kept & ~self.text_only

    @cached_property
    def text_only(self) -> np.ndarray:
        """bool [rows]: what is about no picture."""
        if "text_only" not in self.samples.column_names:
            return np.zeros(len(self), bool)
        return self.samples["text_only"].fill_null(False).to_numpy()

    def drop(self, places: np.ndarray, reason: Reason) -> None:
        """Drops those of `places` (indexes, or a bool for each row) that are not dropped yet."""
        dropped = np.zeros(len(self), bool)
        dropped[places] = True
        self.verdicts.reason[dropped & self.alive()] = reason.value

    def measure(self, name: str, values: pa.Array | pa.ChunkedArray | np.ndarray) -> None:
        """Keeps a measure of every row: a number, or a truth as 1 or 0; null or NaN where it has none."""
        if not isinstance(values, np.ndarray):
            whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
            values = whole.cast(pa.float32()).to_numpy(zero_copy_only=False)
        self.measures[name] = np.where(self.text_only, np.float32(np.nan), values.astype(np.float32))

    def ask(
        self,
        name: str,
        measure: str,
        keeps: Keeps,
        value: float,
        reason: Reason,
        groups: dict[str, float] | None = None,
    ) -> None:
        """Drops what does not reach a threshold on a measure that is kept already; see `Threshold`."""
        alive = self.alive()
        measured, bound = self.measures[measure], np.float32(value)
        failed = alive & (measured < bound if keeps == "at_least" else measured > bound)
        self.verdicts.reason[failed] = reason.value
        reached, dropped = int(alive.sum()), int(failed.sum())
        self.thresholds.append(Threshold(name, measure, keeps, value, reason.value, reached, dropped, groups))

    def places_in(self, model: str = "") -> np.ndarray:
        """int64 [rows]: each row's place in the model's vectors; -1 where it has none."""
        there = self.vectors[model]["sample_id"].combine_chunks()
        found = pc.index_in(self.samples["sample_id"].combine_chunks(), there)
        return found.fill_null(-1).to_numpy().astype(np.int64)

    def scores(self, model: str = "") -> np.ndarray:
        """float32 [rows]: the model's cosine of picture and caption; NaN where it has none."""
        place = self.places_in(model)
        scores = self.vectors[model]["clip_score"].combine_chunks().to_numpy(zero_copy_only=False)
        found = np.full(len(self), np.nan, np.float32)
        found[place >= 0] = scores[place[place >= 0]]
        return found
