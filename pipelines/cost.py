"""What the language model of a recipe would be asked and would cost, before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.instruct import InstructSettings
from stages.instruct.context import Context
from stages.instruct.endpoint.answer import estimate_tokens, text_tokens
from stages.instruct.gates import find_gate
from stages.instruct.kinds import EndpointKind, find_kind

#: Rows from the source's beginning whose captions and boxes stand for all.
_ROWS_LOOKED_AT = 200


@dataclass(frozen=True)
class Cost:
    """Requests and tokens if every row were kept; answers are taken to be as long as the prompts' examples.

    Attributes:
        further: what the recipe has asked beyond the first requests, in words; not in the figures.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    most_output_tokens: int
    further: tuple[str, ...] = ()


def endpoint_cost(settings: InstructSettings, rows: int, first: pa.Table) -> Cost | None:
    """Estimates what `rows` rows would cost; None where no kind asks the endpoint.

    Args:
        first: the first rows, in the form of `schemas.tables.SOURCE`.
    """
    if settings.endpoint is None or not settings.asks_endpoint():
        return None
    contexts = [_context(row) for row in first.slice(0, _ROWS_LOOKED_AT).to_pylist()]
    requests = asked = answered = 0.0
    for name, share in settings.kinds.items():
        kind_class = find_kind(name)
        if not issubclass(kind_class, EndpointKind):
            continue
        kind = kind_class()
        chats = [kind.messages(context) for context in contexts]
        examples = [message["content"] for message in chats[0] if message["role"] == "assistant"]
        longest = settings.endpoint.max_tokens
        expected = min(sum(map(text_tokens, examples)) / len(examples), longest) if examples else longest
        requests += share * rows
        asked += share * rows * sum(map(estimate_tokens, chats)) / len(chats)
        answered += share * rows * expected
    most = round(requests) * settings.endpoint.max_tokens
    return Cost(round(requests), round(asked), round(answered), most, tuple(_further(settings, round(requests))))


def cost_lines(settings: InstructSettings, cost: Cost) -> list[str]:
    """The estimate in words, and how far the budget reaches."""
    endpoint = settings.endpoint
    assert endpoint is not None
    lines = [
        f"endpoint {endpoint.where}: at most {cost.requests:,} requests and {cost.most_output_tokens:,} tokens of "
        "answers (were every row kept)",
        f"  likely about {cost.input_tokens:,} tokens of requests and {cost.output_tokens:,} of answers, by the "
        "prompts, their examples, and the first rows",
        *(f"  not counted in: {text}" for text in cost.further),
    ]
    spent: dict[str, tuple[float, float | None]] = {
        "tokens": (cost.input_tokens + cost.output_tokens, endpoint.budget.tokens)
    }
    if endpoint.price is not None:
        likely = endpoint.price.of(cost.input_tokens, cost.output_tokens)
        most = endpoint.price.of(cost.input_tokens, cost.most_output_tokens)
        lines.append(f"  by instruct.endpoint.price: likely about {likely:,.2f} in money, at most {most:,.2f}")
        spent["money"] = (likely, endpoint.budget.money)
    for name, (likely, cap) in spent.items():
        if cap is not None and likely > cap:
            lines.append(
                f"  the budget of {cap:,} in {name} reaches for about {cap / likely:.0%} of it: the run will stop there"
            )
        elif cap is not None:
            lines.append(f"  within the budget of {cap:,} in {name}")
    return lines


def _further(settings: InstructSettings, requests: int) -> list[str]:
    """Requests whose number only the answers decide."""
    found = []
    if settings.retry_refused:
        found.append(f"instruct.retry_refused asks once more for each refused answer, at most {requests:,} times")
    if any(find_gate(name).blind for name in settings.chosen_gates()):
        found.append("the gate not_visual asks each different question once more without its picture, in few tokens")
    return found


def _context(row: dict[str, Any]) -> Context:
    """A row's context before its picture is known: the sides are where its boxes end."""
    boxes = [box for box in row["boxes"] or [] if None not in (box["x"], box["y"], box["w"], box["h"])]
    width = max((box["x"] + box["w"] for box in boxes), default=1.0)
    height = max((box["y"] + box["h"] for box in boxes), default=1.0)
    return Context.from_row({**row, "original_width": width, "original_height": height})
