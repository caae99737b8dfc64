"""A packaged recipe in miniature: everything that it chooses, at sizes that a test has time for."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from models.timm_trunks import TIMM
from pipelines.recipe import Recipe, load_recipe, parse_recipe
from stages.feed import write_plan
from stages.train.logs import log_path, read_log
from stages.train.work import StepWork
from tests.models.conftest import make_tokenizer
from tests.stages.feed.tiny_run import feed_all, make_run

#: The recipes that have a golden file.
NAMES = ("llava", "llava-1.5", "llava-next", "baichuan-three-step", "molmo", "prismatic", "clip")
FOLDER = Path(__file__).parent
RECIPES = FOLDER.parents[1] / "pipelines/recipes"

#: Optimizer steps of a training step.
_STEPS = 6
#: Warm-ups that are given in optimizer steps are divided by this.
_WARMUP_SHRINKS = 1000
_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
#: Towers of 10 x 10 patches, as deep as the recipes' layers reach: OpenCLIP's own ViT, and one with a trunk of timm.
_TOWERS = {
    "sluice-golden": {"image_size": 40, "layers": 12, "width": 32, "head_width": 16, "patch_size": 4},
    "sluice-golden-trunk": {
        "image_size": 160,
        "timm_model_name": "test_vit2",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
}
_LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
_WORDS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: ASSISTANT: Describe it. A field, all red green blue white."
)


def miniature(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with tiny untrained parts of the same make, short packs, small batches and few optimizer steps.

    What a recipe is known for stays: tiling, layers, connector, fusion, chat template, and of each training step the
    kinds, the parts that learn, rates, schedule, warm-up (shortened), optimizer and z-loss. Training is in fp32.

    Args:
        folder: where the tokenizer and the towers' configs are written.
    """
    data = recipe.model_dump(mode="json", exclude_none=True)
    for name, vision in _TOWERS.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": _TEXT}))
        open_clip.add_model_config(path)
    data["feed"] |= {"tokens_per_pack": 768, "pictures_per_pack": 40}
    if recipe.model is not None:
        make_tokenizer(folder, None, _WORDS)
        vision = data["model"]["vision"]
        data["model"]["vision"] = [_tower(each) for each in vision] if isinstance(vision, list) else _tower(vision)
        template = {key: value for key, value in data["model"]["language"].items() if key == "chat_template"}
        data["model"]["language"] = {"config": _LANGUAGE, "tokenizer": str(folder), **template}
    data["train"] = [_step(step) for step in data["train"]]
    return parse_recipe(data, recipe.name)


def run_miniature(name: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Trains the miniature of a packaged recipe on a fixed run in `folder`, in this process and on one core.

    Returns:
        Training step -> for every optimizer step `loss`, and of each part the rate `lr` and the length of its gradient.
    """
    recipe = miniature(load_recipe(RECIPES / f"{name}.yaml"), folder)
    run = make_run(folder / "run", draw=_drawing, kinds=("caption", "conversation", "template"))
    feed_all(run, recipe.model, recipe.feed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for number, step in enumerate(recipe.train):
            write_plan(run, step, recipe.feed, recipe.seed)
            StepWork(run, recipe.model, recipe.train[: number + 1], recipe.seed).train()
    finally:
        torch.set_num_threads(threads)
    kept = ("loss", "lr", "gradients")
    lines = {step.name: read_log(log_path(run, step.name)) for step in recipe.train}
    return {step: [{key: line[key] for key in kept} for line in log] for step, log in lines.items()}


def _tower(vision: dict[str, Any]) -> dict[str, Any]:
    """A tower of the same make and the same layers."""
    name = vision["model"]
    small = {"model": "sluice-golden", "pretrained": "none", "layer": vision["layer"]}
    if name.startswith(TIMM):
        return {**small, "model": f"{TIMM}test_vit2", "image_size": 160}
    config = open_clip.get_model_config(name)
    return {**small, "model": "sluice-golden-trunk"} if "timm_model_name" in config["vision_cfg"] else small


def _step(step: dict[str, Any]) -> dict[str, Any]:
    """A training step of a few optimizer steps."""
    small = {"epochs": 4, "max_steps": _STEPS, "precision": "fp32", "log_every": 1, "validate_samples": 0}
    if step["objective"] == "contrastive":
        small |= {"model": "sluice-golden", "batch": 8}
    else:
        small |= {"packs_per_step": 2}
    step = {**step, **small}
    for part in (step, *step["learn"].values()):
        if isinstance(part, dict) and part.get("warmup_steps"):
            part["warmup_steps"] = math.ceil(part["warmup_steps"] / _WARMUP_SHRINKS)
    return step


def _drawing(number: int) -> Image.Image:
    """A picture of coarse random squares, in one of several shapes."""
    squares = np.random.default_rng(number).integers(0, 255, (4, 4, 3), np.uint8)
    shapes = ((48, 40), (40, 72), (100, 40), (80, 80))
    return Image.fromarray(squares).resize(shapes[number % len(shapes)], Image.Resampling.NEAREST)
