"""Has a language model write conversations: asks, reads and judges the answers, and asks once more where it may."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from schemas.conversation import Conversation, Turn
from stages.instruct.context import Context
from stages.instruct.endpoint import Endpoint
from stages.instruct.gates.base import Scene
from stages.instruct.judge import Judge, Refusal
from stages.instruct.kinds import EndpointKind, Rejected
from stages.instruct.kinds.base import read_prompt
from stages.instruct.objects import name_of

#: As many faults are named when the language model is asked once more.
_FAULTS = 5


@dataclass(frozen=True)
class Commission:
    """One conversation to be written: of which picture, of which kind, and where chance comes from."""

    context: Context
    kind: EndpointKind
    seed: str

    @property
    def conversation_id(self) -> str:
        return f"{self.context.sample_id}-{self.kind.name}"


@dataclass
class Written:
    """What came of a commission: the turns that passed, and rows of `schemas.tables.REJECTED`."""

    commission: Commission
    text: str = ""
    turns: list[Turn] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    before: list[Refusal] = field(default_factory=list)

    def rejected(self) -> list[dict[str, Any]]:
        """One row for each refusal; `retried` are those after which the language model was asked once more."""
        return [_row(self.commission, one, True) for one in self.before] + [
            _row(self.commission, one, False) for one in self.refused
        ]


class Writer:
    """Writes conversations.

    Args:
        retry: one more request for each answer of which something was refused, with the reasons in it.
    """

    def __init__(self, endpoint: Endpoint, judge: Judge, retry: bool) -> None:
        self.endpoint, self.judge, self.retry = endpoint, judge, retry
        self._again, self._blind = read_prompt("again"), read_prompt("blind")

    def write(self, commissions: list[Commission]) -> list[Written]:
        """Writes all of them, in their order.

        Raises:
            SluiceError: the endpoint cannot be reached or refuses; what was answered until then is kept.
        """
        scene_labels = frozenset(name_of(box.label) for one in commissions for box in one.context.boxes)
        scenes = {one.context.sample_id: Scene(one.context, scene_labels) for one in commissions}
        requests = [(one.kind.version, one.kind.messages(one.context)) for one in commissions]
        written = self._ask(commissions, requests, scenes)
        refused = [place for place, one in enumerate(written) if one.refused] if self.retry else []
        again = self._ask(
            [commissions[place] for place in refused],
            [self._request_again(requests[place][1], written[place]) for place in refused],
            scenes,
        )
        for place, second in zip(refused, again, strict=True):
            first = written[place]
            better = second if len(second.turns) >= len(first.turns) else replace(second, turns=first.turns)
            written[place] = replace(better, before=first.refused)
        return written

    def conversation(self, one: Written) -> Conversation:
        """The conversation that the turns of `one` make."""
        commission = one.commission
        return Conversation(
            commission.conversation_id, commission.context.sample_id, commission.kind.name, "endpoint", one.turns,
            self.endpoint.settings.model, commission.kind.version,
        )  # fmt: skip

    def _ask(
        self, commissions: list[Commission], requests: list[tuple[str, list[dict[str, str]]]], scenes: dict[str, Scene]
    ) -> list[Written]:
        if not commissions:
            return []
        written = []
        for commission, answer in zip(commissions, self.endpoint.answer_all(requests), strict=True):
            one = Written(commission, answer.text)
            try:
                rng = random.Random(commission.seed)
                turns = commission.kind.read(answer.text, commission.context, rng)
                scene = scenes[commission.context.sample_id]
                one.turns, one.refused = self.judge.sift(turns, scene, commission.kind)
            except Rejected as error:
                one.refused = [Refusal(error.reason, error.detail, "conversation", answer.text)]
            written.append(one)
        if self.judge.blind:
            self._sift_blind(written, scenes)
        return written

    def _sift_blind(self, written: list[Written], scenes: dict[str, Scene]) -> None:
        """Asks every question that is left without any context, and takes out those that need none."""
        questions = list(dict.fromkeys(turn.question for one in written for turn in one.turns))
        version = f"blind-{self._blind['version']}"
        system = {"role": "system", "content": self._blind["system"].strip()}
        requests = [(version, [system, {"role": "user", "content": question}]) for question in questions]
        answers = self.endpoint.answer_all(requests) if requests else []
        blind = {question: answer.text for question, answer in zip(questions, answers, strict=True)}
        for one in written:
            scene = scenes[one.commission.context.sample_id]
            one.turns, refused = self.judge.sift(one.turns, scene, one.commission.kind, blind)
            one.refused += refused

    def _request_again(self, messages: list[dict[str, str]], one: Written) -> tuple[str, list[dict[str, str]]]:
        """The first request, its answer, and what is wrong with it."""
        faults = dict.fromkeys(f"- {refusal.reason.info.text}: {refusal.detail}" for refusal in one.refused)
        order = "\n".join([self._again["faults"], *list(faults)[:_FAULTS], self._again["order"].strip()])
        said = [{"role": "assistant", "content": one.text}, {"role": "user", "content": order}]
        return f"{one.commission.kind.version}-again-{self._again['version']}", [*messages, *said]


def _row(commission: Commission, refusal: Refusal, retried: bool) -> dict[str, Any]:
    return {
        "conversation_id": commission.conversation_id, "sample_id": commission.context.sample_id,
        "kind": commission.kind.name, "reason": refusal.reason.value, "detail": refusal.detail, "scope": refusal.scope,
        "question": refusal.question, "answer": refusal.answer, "retried": retried,
    }  # fmt: skip
