"""The recipe's section `instruct`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator

from schemas.errors import InputError
from schemas.settings import Settings
from stages.instruct.endpoint.settings import EndpointSettings
from stages.instruct.gates.base import Scope

__all__ = ["EndpointSettings", "InstructSettings"]


class InstructSettings(Settings):
    """Which kinds of conversation are made, for what share of the kept pictures, and by whom."""

    kinds: dict[str, float] = Field(
        default_factory=lambda: {"caption": 1.0, "count": 1.0, "presence": 1.0, "position": 1.0},
        description="kind -> share of the kept pictures that get it, 0 to 1",
    )
    questions: dict[str, int] = Field(
        default_factory=dict,
        description="template kind -> most questions about one picture, where the kind can ask several; "
        "for kinds that are not named here 2, and 1 caption",
    )
    draws: int = Field(
        1,
        ge=1,
        description="how often the template kinds' questions about a picture are drawn, each time into a conversation "
        "of its own; held-out pictures have the first alone",
    )
    apart: bool = Field(
        False,
        description="a model learns each question of the template kinds by itself: it sees the picture and that one, "
        "none of the others that are asked about it",
    )
    endpoint: EndpointSettings | None = Field(None, description="asked for conversation, detail and reasoning")
    gates: dict[str, Scope | Literal[False]] = Field(
        default_factory=dict,
        description="gate -> what it drops of a language model's answer: turn or conversation; false leaves it out; "
        "gates that are not named here have their defaults",
        validate_default=True,
    )
    retry_refused: bool = Field(
        False, description="ask once more, with the reasons, for each answer of which a gate refused something"
    )
    languages: list[str] = Field(
        default_factory=lambda: ["en"], min_length=1, description="ISO 639 codes of the languages of answers"
    )
    instructing_captions: Literal["templates", "drop"] = Field(
        "templates",
        description="of a row whose caption tries to give the language model orders: conversations by template alone, "
        "or none",
    )
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

    @field_validator("questions")
    @classmethod
    def _asking(cls, questions: dict[str, int]) -> dict[str, int]:
        from stages.instruct.kinds import TemplateKind, find_kind

        for name, most in questions.items():
            try:
                kind = find_kind(name)
            except InputError as error:
                raise ValueError(str(error)) from error
            if not issubclass(kind, TemplateKind) or not kind.most:
                raise ValueError(f"how many questions kind '{name}' asks about a picture cannot be chosen")
            if most < 1:
                raise ValueError(f"kind '{name}' must ask at least 1 question, not {most}")
        return questions

    @field_validator("gates", mode="before")
    @classmethod
    def _gates(cls, gates: Any) -> Any:
        from stages.instruct.gates import find_gate, gate_names

        if not isinstance(gates, dict):
            raise ValueError("gates are named one by one, for example {grounding: turn, language: false}")
        for name, scope in gates.items():
            try:
                find_gate(name)
            except InputError as error:
                raise ValueError(str(error)) from error
            if scope is not False and scope not in get_args(Scope):
                raise ValueError(f"gate '{name}' drops a turn or a conversation, or is left out by false; not {scope}")
        return {name: gates.get(name, find_gate(name).scope) for name in gate_names()}

    def chosen_gates(self) -> dict[str, Scope]:
        """Gate -> what it drops, in the order in which gates are asked."""
        return {name: scope for name, scope in self.gates.items() if scope}

    def asks_endpoint(self) -> bool:
        """Whether any kind needs a language model."""
        from stages.instruct.kinds import EndpointKind, find_kind

        return any(share > 0 and issubclass(find_kind(name), EndpointKind) for name, share in self.kinds.items())
