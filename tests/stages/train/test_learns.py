"""What any trainer must do: learn a few samples by heart, and learn where an answer ends."""

from __future__ import annotations

import json

import models.compat  # noqa: F401

# isort: split
import open_clip
import pytest
import torch

from models.answer import answer
from models.chat import end_ids, prompt_ids
from models.full import ModelSettings, build_model
from stages.feed import PackReader, write_plan
from stages.run_folder import RunFolder
from stages.train.logs import log_path, read_log
from stages.train.settings import TrainStep
from stages.train.weights import load_trained
from stages.train.work import StepWork
from tests.models.conftest import TOWER
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

STEP = TrainStep(
    name="both",
    learn={"connector": 3e-3, "language": 3e-3},
    kinds=["template"],
    epochs=30,
    packs_per_step=1,
    precision="fp32",
    validate_samples=0,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    tower = TOWER["vision_cfg"] | {"patch_size": 16}
    (folder / "sluice-test-four-patches.json").write_text(json.dumps(TOWER | {"vision_cfg": tower}))
    open_clip.add_model_config(folder / "sluice-test-four-patches.json")
    made = make_model(folder / "tokenizer")
    return made.model_copy(update={"vision": made.vision.model_copy(update={"model": "sluice-test-four-patches"})})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: ModelSettings) -> RunFolder:
    """Trained on 32 samples."""
    run = make_run(tmp_path_factory.mktemp("run"), parts=2, rows=19)
    feed_all(run, model)
    write_plan(run, STEP, FEED.model_copy(update={"pictures_per_pack": 4}), seed=1)
    StepWork(run, model, [STEP], 1).train()
    return run


def test_32_samples_are_learned_by_heart(run: RunFolder) -> None:
    assert len(PackReader(run, ["train"])) == 32
    assert read_log(log_path(run, "both"))[-1]["loss"] < 0.05


def test_answers_end_where_they_should(run: RunFolder, model: ModelSettings) -> None:
    trained, tokenizer = build_model(model, 1, trained=True)
    load_trained(trained, run, ["both"])
    samples = [PackReader(run, ["train"]).read(number) for number in range(4)]
    asked = [
        turn for sample in samples for said in sample.conversations for turn in said.turns if turn.kind == "colour"
    ]
    pictures = [sample.picture for sample in samples]
    questions = [turn.question for turn in asked]
    assert answer(trained, tokenizer, questions, pictures, max_new_tokens=30) == [turn.answer for turn in asked]
    size, layout = pictures[0].size, trained.layout
    prompt = torch.tensor([prompt_ids(questions[0], tokenizer, layout.tokens(*size))])
    shown = {"pixel_values": layout.tensor(pictures[0]), "picture_order": layout.orders([size])}
    new = trained.generate(prompt, torch.ones_like(prompt), 30, **shown)[0].tolist()
    assert new[-1] == end_ids(tokenizer)[0]
    assert len(new) < 30
