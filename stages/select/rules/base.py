"""What every rule has: a measure of each sample, and the limit that it must keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import pyarrow as pa

from schemas.vocabulary import Reason

Keeps = Literal["at_least", "at_most"]


class Rule(ABC):
    """One reason to drop a sample: its measure is under, or over, the recipe's limit.

    Attributes:
        name: its key in the recipe, under `select.rules`.
        reason: what the ledger says of the samples it drops.
        limit: type and pydantic field of its value in the recipe; null or false leaves the rule out.
        version: raised when it measures otherwise.
        measure: the column of `scores.parquet` that it stands on; rules that measure the same share it.
        keeps: `at_least`: what measures less than the limit is dropped; `at_most`: what measures more.
        needs_all_rows: where a row's measure depends on other rows: what a stream, which has not seen them all, can ask
            instead.
    """

    name: ClassVar[str]
    reason: ClassVar[Reason]
    limit: ClassVar[tuple[Any, Any]]
    version: ClassVar[int] = 1
    measure: ClassVar[str]
    keeps: ClassVar[Keeps]
    needs_all_rows: ClassVar[str | None] = None

    @staticmethod
    @abstractmethod
    def measured(samples: pa.Table, limit: Any) -> pa.Array | pa.ChunkedArray:
        """The measure of each row of `samples`: a number, or a truth for what is there or not; null breaks no rule.

        Args:
            samples: every row of the run, with columns of `schemas.tables.SAMPLES`; `captions` of
                `schemas.tables.SOURCE` where the source is at hand. Rows without a picture have a `reason`.
            limit: as in the recipe. Only rules that are no comparison of numbers need it here.
        """

    @classmethod
    def asked(cls, limit: Any) -> bool:
        """Whether the recipe's value asks the rule at all."""
        return limit is not None and limit is not False

    @classmethod
    def depends(cls, limit: Any) -> Any:
        """What of the limit the measure depends on, JSON-able: nothing, where the limit is a number to compare with."""
        return None

    @classmethod
    def bound(cls, limit: Any) -> float:
        """The number that the measure is compared with."""
        return float(limit)
