"""What a gate is: a reason to refuse a turn that a language model wrote."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from schemas.conversation import Turn
from schemas.vocabulary import Reason
from stages.instruct.context import Context
from stages.instruct.objects import Name, Support

if TYPE_CHECKING:
    from stages.instruct.kinds import EndpointKind
    from stages.instruct.settings import InstructSettings

#: What a gate drops: the turn that it refuses, or the whole conversation.
Scope = Literal["turn", "conversation"]

#: Why a turn is refused: the reason, and in a few words what the gate saw.
Verdict = tuple[Reason, str]


@dataclass(frozen=True)
class Scene:
    """What the gates know of one picture.

    Attributes:
        labels: names of all boxes of the part of the data that the picture is in.
    """

    context: Context
    labels: frozenset[Name] = frozenset()

    @cached_property
    def support(self) -> Support:
        return Support(self.context)

    @cached_property
    def words(self) -> str:
        """All that is known of the picture in words, in lower case."""
        boxes = (*self.context.boxes, *self.context.texts)
        return "\n".join([*self.context.captions, *(box.label for box in boxes)]).lower()


@dataclass(frozen=True)
class Said:
    """A turn and all that a gate may know of it.

    Attributes:
        earlier: the turns before it that passed.
        blind: what the language model answers to the question without any context; null where it was not asked.
    """

    turn: Turn
    scene: Scene
    kind: EndpointKind
    earlier: list[Turn] = field(default_factory=list)
    blind: str | None = None


class Gate(ABC):
    """One reason to refuse a turn. `scope` is what it drops where the recipe does not say; False: it is left out."""

    scope: ClassVar[Scope | Literal[False]] = "turn"
    #: Gates with a lower place are asked first; the first that refuses a turn gives the reason.
    place: ClassVar[int] = 1
    #: Whether it needs `Said.blind`, which costs a request for every question.
    blind: ClassVar[bool] = False

    def __init__(self, settings: InstructSettings) -> None:
        self.settings = settings

    @abstractmethod
    def verdict(self, said: Said) -> Verdict | None:
        """Why the turn is refused; None where it passes."""
