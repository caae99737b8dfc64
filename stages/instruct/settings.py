"""The recipe's section `instruct`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from schemas.errors import InputError
from schemas.settings import Settings
from stages.instruct.endpoint.settings import EndpointSettings

__all__ = ["EndpointSettings", "InstructSettings"]


class InstructSettings(Settings):
    """Which kinds of conversation are made, for what share of the kept pictures, and by whom."""

    kinds: dict[str, float] = Field(
        default_factory=lambda: {"caption": 1.0, "count": 1.0, "presence": 1.0, "position": 1.0},
        description="kind -> share of the kept pictures that get it, 0 to 1",
    )
    endpoint: EndpointSettings | None = Field(None, description="asked for conversation, detail and reasoning")
    answers: Path | None = Field(
        None, description="folder where the endpoint's answers are kept; by default `answers` beside the run folder"
    )

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: dict[str, float]) -> dict[str, float]:
        from stages.instruct.kinds import find_kind

        for name, share in kinds.items():
            try:
                find_kind(name)
            except InputError as error:
                raise ValueError(str(error)) from error
            if not 0 <= share <= 1:
                raise ValueError(f"the share of kind '{name}' must lie between 0 and 1, not {share}")
        return kinds

    def asks_endpoint(self) -> bool:
        """Whether any kind needs a language model."""
        from stages.instruct.kinds import EndpointKind, find_kind

        return any(share > 0 and issubclass(find_kind(name), EndpointKind) for name, share in self.kinds.items())
