"""Asks the language model, many requests at once, with a store of answers and a budget in front of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

from schemas.identity import digest
from stages.instruct.endpoint import structured
from stages.instruct.endpoint.answer import Answer, Messages
from stages.instruct.endpoint.budget import Purse
from stages.instruct.endpoint.engines import NotStructuredError, find_engine
from stages.instruct.endpoint.settings import EndpointSettings
from stages.instruct.endpoint.store import AnswerStore


class Endpoint:
    """One door to the language model for all threads of a process: they share its limits, budget and answers.

    Raises:
        InputError: the engine cannot be had: its key is not in the environment, its package is not installed.
    """

    def __init__(self, settings: EndpointSettings, store: AnswerStore) -> None:
        self.settings, self.store = settings, store
        self.engine = find_engine(settings.engine)(settings)
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def answer_all(self, requests: Sequence[tuple[str, Messages]]) -> list[Answer]:
        """Answers `(prompt version, messages)` pairs, in their order. Safe to call from several threads.

        What was answered before, in this run or another one with the same store, is not asked again, nor is a request
        that is under way already. An answer with an empty text cannot be used.

        Raises:
            BudgetSpentError: the run came to its cap.
            InputError: the endpoint refuses the key or the request.
            SluiceError: the endpoint cannot be reached or does not answer as it should.
            In each case what was answered until then is kept, and nothing is under way any more.
        """
        return self._run(self._answer_all(requests))

    def _run(self, work: Coroutine[Any, Any, list[Answer]]) -> list[Answer]:
        """Runs `work` on the event loop that all threads share."""
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True).start()
                self._begin()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _begin(self) -> None:
        self._slots = asyncio.Semaphore(self.settings.concurrency)
        self._purse = Purse(self.settings, self.store)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._unwritten: list[tuple[str, Answer, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._failure: Exception | None = None

    async def _answer_all(self, requests: Sequence[tuple[str, Messages]]) -> list[Answer]:
        await asyncio.to_thread(self.store.refresh)
        answers = [self._answer(version, messages) for version, messages in requests]
        results = await asyncio.gather(*answers, return_exceptions=True)
        await asyncio.to_thread(self.store.sync)
        failed = [result for result in results if isinstance(result, BaseException)]
        if failed and self._under_way:  # other threads' requests: what is paid for is to be kept
            await asyncio.wait(self._under_way.values())
        if not self._under_way:
            self._failure = None
            await self.engine.pause()
        if failed:
            raise failed[0]
        return results  # type: ignore[return-value]

    async def _answer(self, version: str, messages: Messages) -> Answer:
        """A kept answer; else that of an equal request under way; else one that is asked for."""
        key = digest([version, self.settings.model, self.settings.sampling(), messages])
        if (kept := self.store.get(key)) is not None:
            return kept
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._buy(key, messages))
            task.add_done_callback(lambda _: self._under_way.pop(key))
        return await task

    async def _buy(self, key: str, messages: Messages) -> Answer:
        """Asks, once there is room for it, and stores the answer. After a failure nothing more is asked."""
        async with self._slots:
            if self._failure is not None:
                raise self._failure
            try:
                held = await self._purse.hold(messages)
            except Exception as error:
                self._failure = self._failure or error
                raise
            try:
                answer = await self._ask(messages)
            except Exception as error:
                self._failure = self._failure or error
                await self._purse.release(held)
                raise
        try:
            if answer is not None:
                await self._store(key, answer)
        finally:
            await self._purse.release(held)
        return answer or Answer("")

    async def _ask(self, messages: Messages) -> Answer | None:
        if self.settings.structured != "off" and self.engine.structured and structured.wants_pairs(messages):
            try:
                answer = await self.engine.ask(structured.in_json(messages), structured.SCHEMA)
                return answer and replace(answer, text=structured.from_json(answer.text))
            except NotStructuredError:
                pass
        return await self.engine.ask(messages)

    async def _store(self, key: str, answer: Answer) -> None:
        """Returns when the answer is stored: on a disk, before anything more is asked; in an object store, what comes
        while a put is under way goes into one put after it."""
        if self.store.is_local:
            self.store.put_all({key: answer})
            return
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((key, answer, stored))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        await stored

    async def _write(self) -> None:
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            error = None
            try:
                await asyncio.to_thread(self.store.put_all, {key: answer for key, answer, _ in batch})
            except Exception as caught:  # noqa: BLE001  (whoever waits for the answer gets it)
                error = self._failure = self._failure or caught
            for _, _, stored in batch:
                if error is None:
                    stored.set_result(None)
                else:
                    stored.set_exception(error)
