"""vLLM in this process, for machines with GPUs. Requests join its running batch as they come (continuous batching)."""

from __future__ import annotations

import asyncio
import uuid
from importlib.util import find_spec
from typing import Any

from schemas.errors import InputError
from stages.instruct.endpoint.answer import Answer, Messages
from stages.instruct.endpoint.engines.base import Engine
from stages.instruct.endpoint.settings import EndpointSettings


class VllmEngine(Engine):
    """Answers by vLLM's `AsyncLLM`, in the Ray actor that does the stage's work; Ray gives it its GPUs.

    Raises:
        InputError: vLLM is not installed.
    """

    structured = True

    def __init__(self, settings: EndpointSettings) -> None:
        super().__init__(settings)
        if find_spec("vllm") is None:
            raise InputError(
                "instruct.endpoint.engine: vllm is not installed: pip install vllm (it needs a GPU), or run "
                "`vllm serve` elsewhere and use engine openai with its base_url"
            )
        self._model: Any = None
        self._loading = asyncio.Lock()

    @classmethod
    def gpus(cls, settings: EndpointSettings) -> float:
        options = settings.options
        sizes = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")
        product = 1
        for size in sizes:
            product *= int(options.get(size, 1))
        return float(product)

    async def ask(self, messages: Messages, schema: dict[str, Any] | None = None) -> Answer | None:
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        model = await self._load()
        tokenizer = model.get_tokenizer()
        if asyncio.iscoroutine(tokenizer):
            tokenizer = await tokenizer
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if len(prompt) + self.settings.max_tokens > model.model_config.max_model_len:
            return None
        form = {"structured_outputs": StructuredOutputsParams(json=schema)} if schema is not None else {}
        how = SamplingParams(**sampling_options(self.settings), output_kind=RequestOutputKind.FINAL_ONLY, **form)
        async for output in model.generate({"prompt_token_ids": prompt}, how, uuid.uuid4().hex):
            if output.finished:
                written = output.outputs[0]
                return Answer(written.text, len(prompt), len(written.token_ids))
        return None

    async def _load(self) -> Any:
        async with self._loading:
            if self._model is None:
                from vllm.engine.arg_utils import AsyncEngineArgs
                from vllm.v1.engine.async_llm import AsyncLLM

                try:
                    options = AsyncEngineArgs(**engine_options(self.settings))
                except TypeError as error:
                    raise InputError(f"instruct.endpoint.options: {error}") from error
                self._model = AsyncLLM.from_engine_args(options)
        return self._model


def engine_options(settings: EndpointSettings) -> dict[str, Any]:
    """vLLM's engine arguments: the recipe's, over what serves this stage best.

    Every request of a kind begins with the same system message and examples, so what is computed of them is kept.
    """
    return {
        "model": settings.model,
        "max_num_seqs": settings.concurrency,
        "enable_prefix_caching": True,
        "seed": 0,
        **settings.options,
    }


def sampling_options(settings: EndpointSettings) -> dict[str, Any]:
    """vLLM's sampling parameters."""
    return {"temperature": settings.temperature, "max_tokens": settings.max_tokens, "seed": 0}
