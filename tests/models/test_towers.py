"""Vision towers: the features are those that transformers' CLIP tower has, and pictures those of its processor."""

import models.compat  # noqa: F401

# isort: split
import json
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionModel

from models.export import _config, _vision_state
from models.full import ModelSettings, VisionLanguageModel
from models.pictures import PictureFormat
from models.towers import SideBySide, VisionSettings, VisionTower, joint_format, picture_format
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
        ({"model": "ViT-B-32", "image_size": 64}, "only timm models have others"),
        ({"model": "timm/vit_tiny_patch16"}, "no timm model is called 'vit_tiny_patch16'; did you mean 'timm/vit_"),
        ({"model": "timm/test_vit.r160_in1k"}, "a tag is given as 'pretrained'"),
        (
            {"model": "timm/test_vit", "pretrained": "laion2b"},
            "neither a tag of timm/test_vit nor a file; known tags",
        ),
        ({"model": "timm/resnet50"}, "is not a ViT over square pictures"),
        ({"model": "timm/convnext_tiny", "image_size": 64}, "is not a ViT over square pictures"),
        ({"model": "timm/test_vit", "layer": [-1, 9]}, "has layers 1 to 6, or -1 to -6; got 9"),
        ({"layer": 0}, "has layers 1 to 6"),
        ({"layer": -7}, "has layers 1 to 6"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VisionTower(VisionSettings.model_validate({"pretrained": "none", **given}))


def test_full_size_towers_are_known_without_being_built() -> None:
    siglip = VisionSettings(model="ViT-SO400M-14-SigLIP-384", pretrained="webli")
    dinov2 = VisionSettings(model="timm/vit_large_patch14_reg4_dinov2", pretrained="lvd142m", image_size=384)
    assert picture_format(siglip) == PictureFormat(384, 14, (0.5,) * 3, (0.5,) * 3)
    assert picture_format(dinov2) == PictureFormat(384, 14, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert joint_format([dinov2, siglip]).side == 27
    whole = dinov2.model_copy(update={"image_size": None})
    with pytest.raises(InputError, match="sees 518 pixels in 37 x 37 patches, 'ViT-SO400M-14-SigLIP-384' 384 "):
        joint_format([whole, siglip])


@pytest.fixture(scope="module")
def siglip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An OpenCLIP model whose tower is a ViT of timm, as SigLIP's are."""
    trunk = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"}
    text = {"context_length": 16, "vocab_size": 320, "width": 16, "heads": 2, "layers": 1}
    path = tmp_path_factory.mktemp("trunk") / "sluice-test-trunk.json"
    path.write_text(json.dumps({"embed_dim": 64, "custom_text": True, "vision_cfg": trunk, "text_cfg": text}))
    open_clip.add_model_config(path)
    return path.stem


@pytest.mark.parametrize("name", ["timm", "open_clip"])
def test_layers_of_timm_towers_are_the_outputs_of_blocks_in_the_order_given(name: str, siglip_name: str) -> None:
    model = siglip_name if name == "open_clip" else "timm/test_vit"
    tower = VisionTower(VisionSettings.model_validate({"model": model, "pretrained": "none", "layer": [-2, 2]})).eval()
    assert len(tower.visual.blocks) == 5
    seen: dict[int, torch.Tensor] = {}
    for number, block in enumerate(tower.visual.blocks):
        block.register_forward_hook(lambda _, __, out, number=number: seen.update({number: out}))
    pixels = torch.randn(2, 3, 160, 160)
    features = tower(pixels)
    assert features.shape == (2, tower.format.side**2, tower.width) == (2, 100, 2 * tower.layer_width)
    prefix = tower.visual.num_prefix_tokens
    assert torch.equal(features, torch.cat([seen[4][:, prefix:], seen[1][:, prefix:]], dim=-1))
    features.sum().backward()
    assert all((value.grad is not None) == value.requires_grad for value in tower.parameters())


def test_towers_side_by_side_see_pictures_as_each_of_them_wants_them(pictures: list[Image.Image]) -> None:
    settings = [
        VisionSettings(model="timm/test_vit", pretrained="none", image_size=32, layer=-1),
        VisionSettings(model="timm/deit_tiny_patch16_224", pretrained="none", image_size=32, layer=-1),
    ]
    both = SideBySide(settings, seed=1).eval()
    formats = [picture_format(one) for one in settings]
    assert formats[0].mean != formats[1].mean
    pixels = torch.stack([formats[0].tensor(picture) for picture in pictures])
    with torch.no_grad():
        joined = both(pixels)
        for place, (one, form) in enumerate(zip(settings, formats, strict=True)):
            own = VisionTower(one, seed=1).eval()(torch.stack([form.tensor(picture) for picture in pictures]))
            begin = place * joined.shape[-1] - place * own.shape[-1]
            torch.testing.assert_close(joined[..., begin : begin + own.shape[-1]], own, atol=1e-4, rtol=1e-4)
    assert joined.shape[-1] == both.width == both.layer_width


def test_weights_of_a_file_become_a_timm_tower(tmp_path: Path) -> None:
    settings = VisionSettings(model="timm/test_vit", pretrained="none", layer=-1)
    path = tmp_path / "tower.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), path)
    filed = settings.model_copy(update={"pretrained": str(path)})
    weights = VisionTower(filed).visual.blocks[0].attn.qkv.weight
    assert torch.equal(weights, load_file(path)["blocks.0.attn.qkv.weight"])
    assert filed.weights_digest() and settings.weights_digest() is None
    save_file({"other": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="does not hold weights of timm/test_vit"):
        VisionTower(filed)
