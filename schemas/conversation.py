"""Conversations about a picture: question and answer turns, to and from LLaVA's JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

#: What stands in a text for the picture's tokens, in LLaVA's JSON and in chat templates.
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Turn:
    """One question and its answer. `kind` names what made it (count, presence, detail, ...)."""

    question: str
    answer: str
    kind: str


@dataclass(frozen=True)
class Conversation:
    """A picture and what is said about it. The picture comes before the first question.

    A conversation that is `text_only` is about no picture: it keeps the language model's skill. In one that is `apart`
    each turn is asked by itself: a model that learns from it sees the picture and that turn alone.
    """

    conversation_id: str
    sample_id: str
    kind: str
    origin: str
    turns: list[Turn] = field(default_factory=list)
    model: str | None = None
    prompt_version: str | None = None
    text_only: bool = False
    apart: bool = False

    def to_row(self) -> dict[str, Any]:
        """A row of `schemas.tables.CONVERSATIONS`."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Conversation:
        """The inverse of `to_row`."""
        turns = [Turn(**turn) for turn in row["turns"]]
        marks = {name: bool(row.get(name)) for name in ("text_only", "apart")}
        return cls(**{**row, "turns": turns, **marks})

    def to_llava(self, picture: str) -> dict[str, Any]:
        """LLaVA's record (`id`, `image`, `conversations` of `from`/`value`), as its training code reads it.

        Answers bear their kind beside, which its code passes over. A record without a picture has no `image`.
        """
        said: list[dict[str, str]] = []
        for number, turn in enumerate(self.turns):
            shown = number == 0 and not self.text_only
            question = f"{IMAGE_TOKEN}\n{turn.question}" if shown else turn.question
            said += [{"from": "human", "value": question}, {"from": "gpt", "value": turn.answer, "kind": turn.kind}]
        image = {} if self.text_only else {"image": picture}
        return {"id": self.conversation_id, **image, "conversations": said}
