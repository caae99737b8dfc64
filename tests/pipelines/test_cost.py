"""What `sluice check` says an endpoint will cost."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.cost import cost_lines, endpoint_cost
from schemas.tables import SOURCE
from stages.instruct import EndpointSettings, InstructSettings
from stages.instruct.context import Context
from stages.instruct.endpoint.answer import estimate_tokens
from stages.instruct.kinds.detail import Detail


def _first(captions: int) -> pa.Table:
    box = {"label": "red kite", "x": 10.0, "y": 20.0, "w": 30.0, "h": 40.0}
    row = {"sample_id": "a", "row": 0, "url": "http://x", "caption": "a", "boxes": [box],
           "captions": [f"Caption number {number} of a red kite." for number in range(captions)]}  # fmt: skip
    return pa.Table.from_pylist([row, {**row, "boxes": None}], SOURCE)


def _settings(**endpoint: object) -> InstructSettings:
    given = {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_tokens": 100, **endpoint}
    return InstructSettings(kinds={"caption": 1.0, "detail": 0.5}, endpoint=EndpointSettings.model_validate(given))


def test_the_estimate_counts_prompts_captions_and_boxes() -> None:
    cost = endpoint_cost(_settings(), 1000, _first(2))
    assert cost is not None
    assert (cost.requests, cost.most_output_tokens) == (500, 50_000)
    bare = estimate_tokens(Detail().messages(Context("a", ["Caption number 0 of a red kite."] * 2)))
    assert 500 * bare < cost.input_tokens < 500 * (bare + 20)
    assert 0 < cost.output_tokens <= cost.most_output_tokens
    longer = endpoint_cost(_settings(), 1000, _first(5))
    assert longer is not None and longer.input_tokens > cost.input_tokens + 500 * 3 * 7


def test_without_a_kind_that_asks_there_is_no_estimate() -> None:
    assert endpoint_cost(InstructSettings(kinds={"caption": 1.0}), 1000, _first(1)) is None
    assert endpoint_cost(InstructSettings(kinds={"caption": 1.0, "detail": 0.0}), 1000, _first(1)) is None


@pytest.mark.parametrize(
    ("budget", "said"),
    [({"tokens": 10**9}, "within the budget of 1,000,000,000 in tokens"), ({"money": 0.01}, "the run will stop there")],
)
def test_the_budget_is_held_against_the_estimate(budget: dict[str, float], said: str) -> None:
    price = {"input_per_million": 1.0, "output_per_million": 2.0}
    settings = _settings(budget=budget, price=price)
    cost = endpoint_cost(settings, 1000, _first(2))
    assert cost is not None
    lines = "\n".join(cost_lines(settings, cost))
    assert said in lines and "at most 500 requests and 50,000 tokens" in lines
    assert f"likely about {(cost.input_tokens + 2 * cost.output_tokens) / 1e6:,.2f} in money" in lines


def test_what_only_the_answers_decide_is_said_beside_the_estimate() -> None:
    plain = _settings()
    cost = endpoint_cost(plain, 1000, _first(2))
    assert cost is not None and not any("once more" in line for line in cost_lines(plain, cost)[2:])
    asking = InstructSettings.model_validate(
        {**plain.model_dump(exclude_unset=True), "retry_refused": True, "gates": {"not_visual": "turn"}}
    )
    cost = endpoint_cost(asking, 1000, _first(2))
    assert cost is not None
    lines = "\n".join(cost_lines(asking, cost))
    assert "retry_refused asks once more for each refused answer, at most 500 times" in lines
    assert "not_visual asks each different question" in lines
