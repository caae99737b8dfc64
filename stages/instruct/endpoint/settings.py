"""The recipe's section `instruct.endpoint`."""

from __future__ import annotations

from pydantic import Field

from schemas.settings import Settings


class EndpointSettings(Settings):
    """An OpenAI-compatible server that answers `POST BASE_URL/chat/completions`."""

    base_url: str = Field(description="for example http://127.0.0.1:8000/v1")
    model: str = Field(description="the model's name as the server knows it, for example a hub name")
    api_key_env: str | None = Field(None, description="name of the environment variable that holds the key")
    concurrency: int = Field(8, ge=1, description="requests under way at once, over all parts of one actor")
    timeout_s: float = Field(120.0, gt=0, description="deadline of one request, seconds")
    retries: int = Field(4, ge=0, description="further tries after time-outs, refused connections, 429 and 5xx")
    temperature: float = Field(0.0, ge=0, description="0 is greedy")
    max_tokens: int = Field(256, ge=1, description="longest answer, tokens")

    def sampling(self) -> dict[str, float | int]:
        """What of the request, besides its words and the model, the answer depends on."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens}
