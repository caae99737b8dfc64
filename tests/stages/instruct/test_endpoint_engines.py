"""The engines in this process: transformers with a real tiny model, and what vLLM is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.language import LanguageSettings, load_language
from schemas.errors import InputError
from stages.instruct.endpoint import Answer, AnswerStore, Endpoint, EndpointSettings
from stages.instruct.endpoint.engines import find_engine
from stages.instruct.endpoint.engines.transformers import TransformersEngine
from stages.instruct.endpoint.engines.vllm import VllmEngine, engine_options, sampling_options
from tests.models.conftest import make_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained Llama that takes 64 tokens."""
    folder = make_tokenizer(tmp_path_factory.mktemp("model"), None)
    config = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    language, tokenizer = load_language(LanguageSettings(config=config, tokenizer=str(folder)), seed=3)
    language.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_transformers_answers_in_batches_and_keeps_what_it_said(model: str, tmp_path: Path) -> None:
    settings = EndpointSettings(engine="transformers", model=model, max_tokens=6, concurrency=3)
    requests = [("v-1", _chat(text)) for text in ("How many cats?", "two", "How many cats?", "the picture " * 40, "?")]
    endpoint = Endpoint(settings, AnswerStore(tmp_path, "run"))
    answers = endpoint.answer_all(requests)
    assert answers[0] == answers[2] and answers[3] == Answer("")
    assert all(
        0 < answer.output_tokens <= 6 < answer.input_tokens for place, answer in enumerate(answers) if place != 3
    )
    assert endpoint.store.spent().requests == 3
    assert isinstance(endpoint.engine, TransformersEngine)
    alone = TransformersEngine(settings).generate([_chat("two")])
    assert alone == [answers[1]]  # padding changes nothing
    assert TransformersEngine(settings).generate([_chat("the picture " * 40)]) == [None]
    again = Endpoint(settings, AnswerStore(tmp_path, "run"))
    assert again.answer_all(requests[:3]) == answers[:3]
    assert again.engine._loaded is None  # type: ignore[attr-defined]  # nothing was asked


def test_sampling_of_transformers_is_seeded(model: str) -> None:
    warm = EndpointSettings(engine="transformers", model=model, max_tokens=16, temperature=2.0)
    chats = [_chat("How many?"), _chat("Where?")]
    first, second = (TransformersEngine(warm).generate(chats) for _ in range(2))
    cold = TransformersEngine(warm.model_copy(update={"temperature": 0.0})).generate(chats)
    assert first == second != cold


def test_a_model_that_is_not_there_is_wrong_input(tmp_path: Path) -> None:
    settings = EndpointSettings(engine="transformers", model=str(tmp_path / "none"))
    with pytest.raises(InputError, match="instruct.endpoint.model: cannot load"):
        Endpoint(settings, AnswerStore(tmp_path)).answer_all([("v-1", _chat("?"))])


def test_vllm_is_told_what_the_recipe_says(tmp_path: Path) -> None:
    options = {"tensor_parallel_size": 2, "data_parallel_size": 2, "enable_prefix_caching": False}
    settings = EndpointSettings(engine="vllm", model="m", concurrency=256, options=options, temperature=0.7)
    assert engine_options(settings) == {"model": "m", "max_num_seqs": 256, "seed": 0, **options}
    assert sampling_options(settings) == {"temperature": 0.7, "max_tokens": 256, "seed": 0}
    assert VllmEngine.gpus(settings) == 4
    assert find_engine("openai").gpus(settings) == 0


def test_vllm_that_is_not_installed_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.instruct.endpoint.engines.vllm.find_spec", lambda name: None)
    with pytest.raises(InputError, match="vllm is not installed: pip install vllm"):
        Endpoint(EndpointSettings(engine="vllm", model="m"), AnswerStore(tmp_path))
