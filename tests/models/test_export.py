"""The exported folder: plain transformers loads all of it, in a fresh process, and answers as the model does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models.answer import answer
from models.chat import prompt_ids
from models.export import ask, export_llava, load_exported
from models.full import ModelSettings, VisionLanguageModel, build_model
from schemas.errors import InputError

Built = tuple[VisionLanguageModel, Any]
QUESTIONS = ["How many cats?", "Where are the two dogs <image> in the picture?", "What?"]

#: What a stranger runs: transformers and nothing of Sluice. Its first lines mend a torchvision without its operators.
STRANGER = """
import json, sys
import torch
try:
    import torchvision
except RuntimeError:
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

torch.set_num_threads(1)
folder, pictures, questions = json.loads(sys.argv[1])
model, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
processor = AutoProcessor.from_pretrained(folder)
said, ids = [], []
for path in pictures:
    for question in questions:
        content = [{"type": "image", "image": Image.open(path)}, {"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )
        ids.append(inputs["input_ids"][0].tolist())
        new = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        said.append(processor.decode(new[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True).strip())
wrong = [str(key) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in info[kind]]
print(json.dumps({"said": said, "ids": ids, "wrong": wrong, "sluice": "models" in sys.modules}))
"""


@pytest.fixture(scope="module")
def folder(built: Built, settings: ModelSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "model"
    export_llava(*built, settings, folder)
    return folder


@pytest.fixture(scope="module")
def picture_paths(pictures: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("pictures") / f"{number}.png" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


def test_plain_transformers_answers_the_same_in_a_fresh_process(
    built: Built, folder: Path, pictures: list[Image.Image], picture_paths: list[Path], tmp_path: Path
) -> None:
    model, tokenizer = built
    questions = [QUESTIONS[0], QUESTIONS[2]]
    given = json.dumps([str(folder), [str(path) for path in picture_paths], questions])
    ran = subprocess.run(
        [sys.executable, "-c", STRANGER, given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["wrong"] == []
    assert told["sluice"] is False
    assert told["ids"] == [prompt_ids(one, tokenizer, model.layout.tile_tokens) for one in questions] * len(pictures)
    shown = [picture for picture in pictures for _ in questions]
    ours = answer(model, tokenizer, questions * len(pictures), shown, max_new_tokens=8)
    assert len(set(ours)) > 2
    assert told["said"] == ours


def test_ask_answers_as_the_model_does(
    built: Built, folder: Path, pictures: list[Image.Image], picture_paths: list[Path]
) -> None:
    shown = [picture for picture in pictures for _ in QUESTIONS]
    ours = answer(*built, QUESTIONS * len(pictures), shown, max_new_tokens=8)
    exported = load_exported(folder)
    assert [exported.answer(one, question, 8) for one in pictures for question in QUESTIONS] == ours
    assert ask(folder, picture_paths[0], QUESTIONS[0], max_new_tokens=8) == ours[0]


def test_the_folder_is_written_as_other_readers_expect_it(folder: Path, settings: ModelSettings) -> None:
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["vision_feature_layer"] == -2
    assert config["image_token_index"] == config["text_config"]["vocab_size"] - 1
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"] == "CLIPImageProcessor"
    assert json.loads((folder / "processor_config.json").read_text())["num_additional_image_tokens"] == 1
    with safe_open(folder / "model.safetensors", "pt") as file:
        names = set(file.keys())
    for name in (
        "vision_tower.vision_model.pre_layrnorm.weight",
        "vision_tower.vision_model.encoder.layers.2.self_attn.q_proj.bias",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.layers.1.mlp.up_proj.weight",
    ):
        assert name in names
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_untied_bf16_model_is_exported_whole(
    settings: ModelSettings, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    config = {**(settings.language.config or {}), "tie_word_embeddings": False}
    language = settings.language.model_copy(update={"config": config, "precision": "bf16"})
    changed = settings.model_copy(update={"language": language})
    model, tokenizer = build_model(changed, seed=5)
    export_llava(model, tokenizer, changed, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    assert str(exported.model.dtype) == "torch.bfloat16"
    head = exported.model.get_output_embeddings().weight
    assert head.equal(model.language.get_output_embeddings().weight)
    assert not head.equal(exported.model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"connector": "linear"}, "'linear' has no place in transformers' LLaVA"),
        ({"tiling": {"name": "anyres"}}, "model.tiling: 'anyres' has no place in transformers' LLaVA"),
        ({"vision": [{}, {}]}, "model.vision: transformers' LLaVA has one tower, not 2"),
        (
            {"vision": {"model": "timm/test_vit"}},
            "model.vision: this tower has layers that transformers' CLIP",
        ),
    ],
)
def test_what_llava_has_no_place_for_is_refused(
    given: dict[str, Any], message: str, settings: ModelSettings, tmp_path: Path
) -> None:
    said = settings.model_dump(mode="json")
    vision = given.get("vision", {})
    towers = [said["vision"] | one for one in vision] if isinstance(vision, list) else said["vision"] | vision
    changed = ModelSettings.model_validate({**said, **given, "vision": towers})
    model, tokenizer = build_model(changed, seed=3)
    with pytest.raises(InputError, match=message):
        export_llava(model, tokenizer, changed, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_padded_pictures_and_several_layers_are_exported(
    settings: ModelSettings, pictures: list[Image.Image], tmp_path: Path
) -> None:
    said = settings.model_dump(mode="json")
    changed = ModelSettings.model_validate({**said, "tiling": "pad", "vision": said["vision"] | {"layer": [-1, -2]}})
    model, tokenizer = build_model(changed, seed=3)
    with torch.no_grad():
        model.connector.linear_2.weight.mul_(20)
    export_llava(model, tokenizer, changed, tmp_path / "model")
    exported = load_exported(tmp_path / "model")
    shown = [picture for picture in pictures for _ in QUESTIONS]
    ours = answer(model, tokenizer, QUESTIONS * len(pictures), shown, max_new_tokens=8)
    assert len(set(ours)) > 2
    assert [exported.answer(one, question, 8) for one in pictures for question in QUESTIONS] == ours


def test_a_second_export_takes_the_place_of_the_first(built: Built, settings: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").write_text("old")
    export_llava(*built, settings, tmp_path / "model")
    assert not (tmp_path / "model" / "old.txt").exists()


def test_what_cannot_be_asked_is_refused(folder: Path, picture_paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not an exported model"):
        ask(tmp_path, picture_paths[0], "What?")
    (tmp_path / "page.jpg").write_text("<html>")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        ask(folder, tmp_path / "page.jpg", "What?")
