"""The recipe's section `instruct.endpoint`."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.settings import Settings


class Price(Settings):
    """What the endpoint takes for its work, in whatever money `budget.money` is counted in."""

    input_per_million: float = Field(ge=0, description="for a million tokens of requests")
    output_per_million: float = Field(ge=0, description="for a million tokens of answers")

    def of(self, input_tokens: float, output_tokens: float) -> float:
        """The price of so many tokens."""
        return (input_tokens * self.input_per_million + output_tokens * self.output_per_million) / 1e6


class Budget(Settings):
    """What one run may spend in all, over every start of it. At the cap the run stops, and can be started again."""

    tokens: int | None = Field(None, ge=1, description="tokens of requests and answers together")
    money: float | None = Field(None, gt=0, description="by `price`")


class EndpointSettings(Settings):
    """The language model that writes conversations, and how it is asked."""

    engine: str = Field(
        "openai", description="openai: any server that speaks OpenAI's form; vllm or transformers: in this process"
    )
    base_url: str | None = Field(None, description="of engine openai, for example http://127.0.0.1:8000/v1")
    model: str = Field(description="the model as the server knows it; of other engines a hub name or a folder")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    concurrency: int = Field(8, ge=1, description="requests under way at once; engine transformers: in one batch")
    requests_per_minute: float | None = Field(None, gt=0, description="the server's limit, where it has one")
    tokens_per_minute: float | None = Field(None, gt=0, description="the same, of requests and answers together")
    timeout_s: float = Field(120.0, gt=0, description="deadline of one try of a request, seconds")
    deadline_s: float = Field(600.0, gt=0, description="deadline of a request over all its tries, seconds")
    retries: int = Field(6, ge=0, description="further tries after time-outs, broken connections, 429 and 5xx")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    max_tokens: int = Field(256, ge=1, description="longest answer, tokens")
    structured: Literal["auto", "on", "off"] = Field(
        "auto", description="ask for questions and answers as JSON by a schema; auto: where the server can"
    )
    price: Price | None = Field(None, description="for estimates and for a budget in money")
    budget: Budget = Field(Budget(), description="no limit where left out")
    gguf_file: str | None = Field(None, description="engine transformers: a GGUF file in the folder `model`")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="engine openai: further fields of a request, for example top_p, or null to leave one out; engine "
        "vllm: its engine arguments, for example tensor_parallel_size",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        from stages.instruct.endpoint.engines import find_engine

        try:
            find_engine(self.engine)
        except InputError as error:
            raise ValueError(str(error)) from error
        if self.engine == "openai" and not re.match(r"https?://[^/\s]", self.base_url or ""):
            raise ValueError("engine openai needs a base_url of http or https, for example http://127.0.0.1:8000/v1")
        if self.budget.money is not None and self.price is None:
            raise ValueError("a budget in money needs price (input_per_million, output_per_million)")
        return self

    def sampling(self) -> dict[str, Any]:
        """What of the request, besides its words and the model, the answer depends on."""
        return self.model_dump(include={"temperature", "max_tokens", "structured", "options"}, mode="json")

    @property
    def where(self) -> str:
        """The endpoint in words, for messages."""
        return f"{self.base_url or self.engine} (model {self.model})"
