"""Holds what a language model wrote against the gates that the recipe chose."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.conversation import Turn
from schemas.vocabulary import Reason
from stages.instruct.gates import Said, find_gate
from stages.instruct.gates.base import Scene, Scope
from stages.instruct.kinds import EndpointKind
from stages.instruct.settings import InstructSettings


@dataclass(frozen=True)
class Refusal:
    """What a gate refused and why. `turn` is null where the answer as a whole could not be read."""

    reason: Reason
    detail: str
    scope: Scope
    answer: str
    question: str | None = None


class Judge:
    """The recipe's gates.

    Attributes:
        blind: whether a gate needs the answers that the language model gives without any context.
    """

    def __init__(self, settings: InstructSettings) -> None:
        self._gates = [(find_gate(name)(settings), scope) for name, scope in settings.chosen_gates().items()]
        self.blind = any(gate.blind for gate, _ in self._gates)

    def sift(
        self, turns: list[Turn], scene: Scene, kind: EndpointKind, blind: dict[str, str] | None = None
    ) -> tuple[list[Turn], list[Refusal]]:
        """The turns that pass, and what was refused.

        Args:
            blind: question -> answer without any context; with it only the gates that need it are asked, without it
                the others.
        """
        passed: list[Turn] = []
        refused: list[Refusal] = []
        for turn in turns:
            said = Said(turn, scene, kind, list(passed), None if blind is None else blind.get(turn.question))
            refusal = self._refuse(said, blind is not None)
            if refusal is None:
                passed.append(turn)
                continue
            refused.append(refusal)
            if refusal.scope == "conversation":
                return [], refused
        return passed, refused

    def _refuse(self, said: Said, blind: bool) -> Refusal | None:
        """By the first gate that refuses the turn."""
        for gate, scope in self._gates:
            verdict = gate.verdict(said) if gate.blind == blind else None
            if verdict is not None:
                return Refusal(*verdict, scope, said.turn.answer, said.turn.question)
        return None
