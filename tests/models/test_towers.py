"""Vision towers: the features are those that transformers' CLIP tower has, and pictures those of its processor."""

import models.compat  # noqa: F401

# isort: split
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionModel

from models.export import _config, _vision_state
from models.full import ModelSettings, VisionLanguageModel
from models.towers import VisionSettings, VisionTower, picture_format
from schemas.errors import InputError


@pytest.mark.parametrize("layer", [-1, -2, 1])
def test_features_are_the_hidden_state_of_transformers_tower(
    settings: ModelSettings, built: tuple[VisionLanguageModel, object], layer: int
) -> None:
    tower = VisionTower(settings.vision.model_copy(update={"layer": layer}), seed=3).eval()
    vision_config = _config(built[0], built[0].vision, settings).vision_config
    theirs = CLIPVisionModel(vision_config).eval()
    prefix = "vision_tower.vision_model."
    theirs.load_state_dict({name.removeprefix(prefix): value for name, value in _vision_state(tower).items()})
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        ours = tower(pixels)
        expected = theirs(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    assert ours.shape == (3, tower.format.side**2, tower.width)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_pictures_are_squashed_whole_and_normalized(
    built: tuple[VisionLanguageModel, object], pictures: list[Image.Image]
) -> None:
    tower = built[0].vision
    stock = CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False, image_mean=tower.format.mean, image_std=tower.format.std
    )
    for picture in pictures:
        assert torch.equal(tower.format.tensor(picture), stock(picture, return_tensors="pt")["pixel_values"][0])
    halves = Image.new("RGB", (200, 20), "white")
    halves.paste("black", (100, 0, 200, 20))
    pixels = tower.format.tensor(halves) * torch.tensor(tower.format.std)[:, None, None]
    pixels += torch.tensor(tower.format.mean)[:, None, None]
    assert pixels[:, :, :14].min() > 0.95
    assert pixels[:, :, 18:].max() < 0.05


def test_the_format_is_known_without_weights_and_agrees_with_the_tower() -> None:
    settings = VisionSettings(pretrained="none")
    tower = VisionTower(settings)
    size = tower.visual.preprocess_cfg["size"]
    assert (picture_format(settings).size, picture_format(settings).size) == (
        size if isinstance(size, tuple) else (size, size)
    )
    assert picture_format(settings).mean == tuple(tower.visual.preprocess_cfg["mean"])
    assert picture_format(settings).side == 8
    large = picture_format(VisionSettings(model="ViT-L-14-336", pretrained="openai"))
    assert (large.size, large.patch, large.side) == (336, 14, 24)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "RN50"}, "is not a ViT over square pictures"),
        ({"model": "no-such-model"}, "no OpenCLIP model is called 'no-such-model'"),
        ({"layer": 0}, "has layers 1 to 6"),
        ({"layer": -7}, "has layers 1 to 6"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VisionTower(VisionSettings.model_validate({"pretrained": "none", **given}))
