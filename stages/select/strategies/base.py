"""What every strategy is: settings in the recipe, and a decision on all rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from schemas.settings import Settings
from stages.select.candidates import Candidates

#: Vectors of reference pictures, float16 [pictures, dim], by the reference and the model ("" is that of `select.clip`).
References = Mapping[tuple[str, str], np.ndarray]


class Strategy(Settings, ABC):
    """One way to choose among all pairs. Its name in a recipe is the name of the file that it stands in.

    What it measures and where its thresholds lie depends on every pair that has a picture, whatever rules and other
    strategies say of it: so an intersection or a union of strategies is one of the sets that each keeps alone.
    """

    @classmethod
    def name(cls) -> str:
        return cls.__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def ask(self, rows: Candidates, key: str, references: References) -> None:
        """Drops from `rows` what it does not keep, by thresholds.

        Args:
            key: the strategy's place in the recipe, under `select`.
            references: the vectors for `reference_pictures`.
        """

    def parts(self) -> Iterator[Strategy]:
        """The strategy and, of a combination, all in it."""
        yield self

    def model_name(self) -> str | None:
        """The model of `select.models` that it stands on ("": that of `select.clip`); None where it needs none."""
        return None

    def reads_vectors(self) -> bool:
        """Whether it needs the model's vectors beside its scores."""
        return False

    def reference_pictures(self) -> str | None:
        """A folder of pictures, or a run, that it compares with."""
        return None

    def content(self) -> Any:
        """What its result depends on besides its settings: digests of the files that it names.

        Raises:
            InputError: one of them is missing or empty.
        """
        return None

    def needs_all_rows(self) -> str | None:
        """Where a row's fate depends on other rows: what a stream, which has not seen them all, can ask instead."""
        return None

    def written(self) -> Any:
        """What stands in a recipe behind its name; None where the bare name does."""
        return self.model_dump(mode="json", exclude_none=True) or None


def new_measure(rows: Candidates, name: str) -> str:
    """`name`, or with a number behind it where a measure of another strategy is called so."""
    number, free = 1, name
    while free in rows.measures:
        number += 1
        free = f"{name}_{number}"
    return free
