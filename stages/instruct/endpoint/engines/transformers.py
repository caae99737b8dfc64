"""A causal language model in this process, by transformers: the fallback where no server runs."""

from __future__ import annotations

import asyncio
from typing import Any

from schemas.errors import InputError
from stages.instruct.endpoint.answer import Answer, Messages
from stages.instruct.endpoint.engines.base import Engine
from stages.instruct.endpoint.settings import EndpointSettings


class TransformersEngine(Engine):
    """Answers batches of up to `concurrency` chats by the model's own chat template; greedy where temperature is 0.

    `model` is a hub name, a folder, or `package:IMPORT_NAME`, with `gguf_file` where it holds one.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        super().__init__(settings)
        self._loaded: tuple[Any, Any] | None = None
        self._waiting: list[tuple[Messages, asyncio.Future[Answer | None]]] = []
        self._work: asyncio.Task[None] | None = None

    @classmethod
    def gpus(cls, settings: EndpointSettings) -> float:
        import torch

        return 1.0 if torch.cuda.is_available() else 0.0

    async def ask(self, messages: Messages, schema: dict[str, Any] | None = None) -> Answer | None:
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((messages, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer_waiting())
        return await answer

    async def _answer_waiting(self) -> None:
        """Answers what waits, batch by batch, until nothing does."""
        while self._waiting:
            batch = self._waiting[: self.settings.concurrency]
            del self._waiting[: len(batch)]
            try:
                answers = await asyncio.to_thread(self.generate, [messages for messages, _ in batch])
            except Exception as error:  # noqa: BLE001  (whoever waits for an answer gets it)
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for (_, waiting), said in zip(batch, answers, strict=True):
                waiting.set_result(said)

    def generate(self, chats: list[Messages]) -> list[Answer | None]:
        """Answers chats in one batch; one that leaves no room for `max_tokens` in the model's context gets None.

        Raises:
            InputError: the model cannot be loaded.
        """
        model, tokenizer = self._load()
        room = getattr(model.config, "max_position_embeddings", None) or 1 << 30
        texts = [_prompt(tokenizer, messages) for messages in chats]
        prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        fitting = [place for place, ids in enumerate(prompts) if len(ids) + self.settings.max_tokens <= room]
        answers: list[Answer | None] = [None] * len(chats)
        if fitting:
            written = self._write(model, tokenizer, [prompts[place] for place in fitting])
            for place, ids in zip(fitting, written, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True)
                answers[place] = Answer(text, len(prompts[place]), len(ids))
        return answers

    def _write(self, model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[list[int]]:
        """The new tokens of each prompt, up to and with the token that ends the answer."""
        import torch

        settings = self.settings
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(model.device)
        chance = {"do_sample": True, "temperature": settings.temperature} if settings.temperature else {}
        torch.manual_seed(0)
        with torch.inference_mode():
            whole = model.generate(**batch, max_new_tokens=settings.max_tokens, **{"do_sample": False, **chance})
        ends = set(model.generation_config.eos_token_id)
        return [_until(ids, ends) for ids in whole[:, batch["input_ids"].shape[1] :].tolist()]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch

            from models.compat import use_cores
            from models.language import LanguageSettings, load_language

            on_gpu = torch.cuda.is_available()
            use_cores()
            language = LanguageSettings(name=self.settings.model, gguf_file=self.settings.gguf_file, precision="bf16")
            try:
                model, tokenizer = load_language(language)
            except InputError as error:
                raise InputError(str(error).replace("model.language", "instruct.endpoint.model", 1)) from error
            self._loaded = model.to("cuda" if on_gpu else "cpu"), tokenizer
        return self._loaded


def _prompt(tokenizer: Any, messages: Messages) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def _until(ids: list[int], ends: set[int]) -> list[int]:
    last = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
    return ids[: last + 1]
