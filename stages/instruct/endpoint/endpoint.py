"""Asks an OpenAI-compatible endpoint, many requests at once, with a store of answers in front of it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import openai

from schemas.errors import InputError, SluiceError
from schemas.identity import digest
from stages.instruct.endpoint.settings import EndpointSettings
from stages.instruct.endpoint.store import AnswerStore


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    text: str


class Endpoint:
    """An OpenAI-compatible chat endpoint with a store of answers in front of it.

    Raises:
        InputError: the environment variable that should hold the key is not set.
    """

    def __init__(self, settings: EndpointSettings, store: AnswerStore) -> None:
        self.settings, self.store = settings, store
        self.asked = 0  # requests that went out, for the counts
        self._key = "none"
        if settings.api_key_env:
            if settings.api_key_env not in os.environ:
                raise InputError(
                    f"instruct.endpoint.api_key_env: the environment variable {settings.api_key_env} is not set"
                )
            self._key = os.environ[settings.api_key_env]

    def answer_all(self, requests: list[tuple[str, list[dict[str, str]]]]) -> list[Answer]:
        """Answers `(prompt version, messages)` pairs, in their order.

        Raises:
            SluiceError: the endpoint cannot be reached or refuses; what was answered until then is kept.
        """
        return asyncio.run(self._answer_all(requests))

    async def _answer_all(self, requests: list[tuple[str, list[dict[str, str]]]]) -> list[Answer]:
        settings = self.settings
        slots = asyncio.Semaphore(settings.concurrency)
        async with openai.AsyncOpenAI(
            base_url=settings.base_url, api_key=self._key, timeout=settings.timeout_s, max_retries=settings.retries
        ) as client:

            async def answer(version: str, messages: list[dict[str, str]]) -> str:
                key = digest([version, settings.model, settings.sampling(), messages])
                async with slots:
                    kept = await asyncio.to_thread(self.store.get, key)
                    if kept is None:
                        kept = await self._ask(client, messages)
                        await asyncio.to_thread(self.store.put, key, kept)
                return kept

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(answer(version, messages)) for version, messages in requests]
            except* openai.OpenAIError as errors:
                first = errors.exceptions[0]
                raise SluiceError(
                    f"the endpoint {settings.base_url} (model {settings.model}) failed: {first}; "
                    "see that it runs, then start the run again: answers so far are kept"
                ) from first
        return [Answer(task.result()) for task in tasks]

    async def _ask(self, client: openai.AsyncOpenAI, messages: list[dict[str, str]]) -> str:
        self.asked += 1
        response = await client.chat.completions.create(
            model=self.settings.model,
            messages=messages,  # type: ignore[arg-type]
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
            seed=0,
        )
        return response.choices[0].message.content or ""
