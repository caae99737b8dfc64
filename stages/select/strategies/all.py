"""Keeps what every one of several strategies keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from stages.select.candidates import Candidates
from stages.select.strategies import StrategySetting
from stages.select.strategies.base import References, Strategy


class AllOf(Strategy):
    """The intersection of a list of strategies: the first that drops a row gives the reason."""

    of: list[StrategySetting] = Field(min_length=1, description="strategies; any can be a combination again")

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, given: Any) -> Any:
        if isinstance(given, list):
            return {"of": given}
        if isinstance(given, dict) and set(given) == {"of"}:
            return given
        raise ValueError("give a list of strategies")

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        for number, strategy in enumerate(self.of):
            strategy.ask(rows, f"{key}.{number}.{strategy.name()}", references)

    def parts(self) -> Iterator[Strategy]:
        yield self
        for strategy in self.of:
            yield from strategy.parts()

    def written(self) -> Any:
        return self.model_dump(mode="json")["of"]
