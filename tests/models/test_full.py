"""The full model: packed samples do not see each other, pictures stand in their places, weights come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from models.answer import answer
from models.chat import NO_LOSS, encode
from models.connectors import Widths, connector_class
from models.connectors.linear import Linear
from models.full import ModelSettings, VisionLanguageModel, build_model, load_weights, save_weights
from schemas.conversation import Conversation, Turn
from schemas.errors import InputError, SluiceError
from schemas.settings import explain

Built = tuple[VisionLanguageModel, Any]


def _samples(built: Built, pictures: list[Image.Image]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Token ids, labels and pixels of conversations of different lengths."""
    model, tokenizer = built
    samples = []
    for number, picture in enumerate(pictures):
        turns = [Turn(f"How many cats{' and dogs' * number}?", "There are two." * (number + 1), "count")] * 2
        tokens = model.layout.tokens(*picture.size)
        encoded = encode(Conversation(f"{number}", f"{number}", "t", "t", turns), tokenizer, tokens)
        pixels = model.layout.tensor(picture)
        samples.append((torch.tensor(encoded.input_ids), torch.tensor(encoded.labels), pixels))
    return samples


def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def test_packed_samples_have_the_loss_that_they_have_alone(built: Built, pictures: list[Image.Image]) -> None:
    model = built[0]
    samples = _samples(built, pictures)
    alone = []
    with torch.no_grad():
        for ids, labels, pixels in samples:
            logits = model(ids[None], pixel_values=pixels)[0, :-1]
            alone.append(_losses(logits, labels[1:])[labels[1:] != NO_LOSS])
        rows = [samples[:2], samples[2:]]
        width = max(sum(len(ids) for ids, _, _ in row) for row in rows)
        ids = torch.zeros(2, width, dtype=torch.int64)
        targets = torch.full_like(ids, NO_LOSS)
        positions = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            begin = 0
            for tokens, labels, _ in row:
                end = begin + len(tokens)
                ids[number, begin:end], positions[number, begin:end] = tokens, torch.arange(len(tokens))
                targets[number, begin : end - 1] = labels[1:]
                begin = end
            positions[number, begin:] = torch.arange(width - begin)
        at = torch.nonzero(targets.flatten() != NO_LOSS).flatten()
        logits = model(ids, positions, torch.cat([pixels for _, _, pixels in samples]), logits_at=at)
        packed = _losses(logits, targets.flatten()[at])
        whole = model(ids, positions, torch.cat([pixels for _, _, pixels in samples]))
    assert logits.shape == (len(at), model.language.config.vocab_size)
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.flatten(0, 1)[at], logits, atol=1e-5, rtol=1e-5)


def test_pictures_change_the_answer_and_features_may_be_given(built: Built, pictures: list[Image.Image]) -> None:
    model = built[0]
    ids, _, pixels = _samples(built, pictures)[0]
    with torch.no_grad():
        seen = model(ids[None], pixel_values=pixels)
        given = model(ids[None], picture_features=model.vision(pixels))
        other = model(ids[None], pixel_values=-pixels)
    torch.testing.assert_close(seen, given)
    assert not torch.allclose(seen, other, atol=1e-2)


def test_picture_tokens_and_pictures_must_agree(built: Built, pictures: list[Image.Image]) -> None:
    model = built[0]
    ids, _, pixels = _samples(built, pictures)[0]
    with pytest.raises(SluiceError, match="16 picture tokens in the text, .*fill 32: .*run the feed stage"):
        model(ids[None], pixel_values=torch.cat([pixels, pixels]))
    with pytest.raises(SluiceError, match="fill 0"):
        model(ids[None])


def test_gradients_reach_every_part(built: Built, settings: ModelSettings, pictures: list[Image.Image]) -> None:
    model, _ = build_model(settings, seed=3)
    ids, _, pixels = _samples(built, pictures)[0]
    model(ids[None], pixel_values=pixels, logits_at=torch.tensor([len(ids) - 2])).sum().backward()
    for name, part in model.parts().items():
        for key, parameter in part.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, f"{name}.{key}"


def test_a_seed_makes_one_model_and_weights_come_back(built: Built, settings: ModelSettings, tmp_path: Path) -> None:
    again, _ = build_model(settings, seed=3)
    other, _ = build_model(settings, seed=4)
    path = tmp_path / "weights.safetensors"
    save_weights(again, path, ["connector", "language"])
    for key, value in again.language.state_dict().items():
        assert torch.equal(value, built[0].language.state_dict()[key])
    assert not torch.equal(other.connector.linear_1.weight, again.connector.linear_1.weight)
    tower = {key: value.clone() for key, value in other.vision.state_dict().items()}
    load_weights(other, path)
    for part in ("connector", "language"):
        for key, value in again.parts()[part].state_dict().items():
            assert torch.equal(value, other.parts()[part].state_dict()[key])
    assert all(torch.equal(value, tower[key]) for key, value in other.vision.state_dict().items())


def test_weights_of_another_model_are_refused(built: Built, settings: ModelSettings, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(built[0], path)
    linear, _ = build_model(settings.model_copy(update={"connector": "linear"}), seed=3)
    with pytest.raises(SluiceError, match="holds the weights of another model"):
        load_weights(linear, path)
    path.write_bytes(b"no")
    with pytest.raises(SluiceError, match="cannot be read"):
        load_weights(linear, path)


def test_connectors_are_found_by_name() -> None:
    assert connector_class("linear") is Linear
    assert Linear(Widths(8, 4))(torch.zeros(2, 3, 8)).shape == (2, 3, 4)
    with pytest.raises(
        InputError, match="did you mean 'mlp2x_gelu'.*known: attention_pool, linear, mean_pool_mlp, mlp2x"
    ):
        connector_class("mlp2x_gelo")
    with pytest.raises(ValidationError, match="there is no connector 'qformer'"):
        ModelSettings.model_validate({"connector": "qformer", "language": {"name": "x"}})


@pytest.mark.parametrize(
    "given",
    [
        {"tiling": {"name": "anyres"}},
        {"tiling": {"name": "overlap", "margins": [1, 0]}, "vision": [{"layer": [-1, -2]}, {}]},
        {"tiling": {"name": "overlap", "margins": [2, 0], "crops": 4}, "connector": "attention_pool"},
        {"connector": "mean_pool_mlp"},
    ],
)
def test_models_of_many_kinds_learn_and_answer(
    given: dict[str, Any], settings: ModelSettings, pictures: list[Image.Image], tmp_path: Path
) -> None:
    said = settings.model_dump(mode="json")
    towers = given.get("vision", [{}])
    vision = [said["vision"] | tower for tower in towers]
    mixed = ModelSettings.model_validate({**said, **given, "vision": vision if len(vision) > 1 else vision[0]})
    model, tokenizer = build_model(mixed, seed=3)
    samples = _samples((model, tokenizer), pictures)
    sizes = [picture.size for picture in pictures]
    for (ids, _, pixels), size in zip(samples, sizes, strict=True):
        assert int((ids == model.image_token_id).sum()) == model.layout.tokens(*size)
        assert len(pixels) == model.layout.tiles(*size)
    ids = torch.cat([ids for ids, _, _ in samples])
    positions = torch.cat([torch.arange(len(ids)) for ids, _, _ in samples])
    pixels = torch.cat([pixels for _, _, pixels in samples])
    order = model.layout.orders(sizes)
    packed = model(ids[None], positions[None], pixels, picture_order=order)[0]
    alone = [
        model(ids[None], pixel_values=pixels, picture_order=model.layout.orders([size]))[0]
        for (ids, _, pixels), size in zip(samples, sizes, strict=True)
    ]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)
    packed.sum().backward()
    for name, part in model.parts().items():
        for key, parameter in part.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, f"{name}.{key}"
    embedded = model.connector(model.vision(pixels), order)
    words = model.language.get_input_embeddings().weight.std()
    assert 0.3 < embedded.std() / words < 3
    questions = ["How many cats?"] * len(pictures)
    said_alone = answer(model, tokenizer, questions, pictures, max_new_tokens=4, batch_size=1)
    assert answer(model, tokenizer, questions, pictures, max_new_tokens=4) == said_alone
    path = tmp_path / "weights.safetensors"
    save_weights(model, path, ["connector"])
    other, _ = build_model(mixed, seed=4)
    load_weights(other, path)
    if mixed.tiling.specials:
        assert torch.equal(other.connector.specials, model.connector.specials)


def test_a_key_of_a_tower_in_a_list_is_named_where_it_stands() -> None:
    for vision, place in (({"modle": "x"}, "vision.modle"), ([{}, {"modle": "x"}], "vision.1.modle")):
        with pytest.raises(ValidationError) as caught:
            ModelSettings.model_validate({"vision": vision, "language": {"name": "x"}})
        message = str(explain(caught.value, ModelSettings, "recipe.yaml"))
        assert f"unknown key '{place}'; did you mean 'model'?" in message
