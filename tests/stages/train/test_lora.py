"""Adapters alone learn, are resumed bit for bit, and end up in weights that everything later reads as it always did."""

import models.compat  # noqa: F401

# isort: split
import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file

from models.export import export_llava, load_exported
from models.full import build_model
from schemas.errors import InputError
from schemas.identity import digest_file
from stages.feed import PackReader
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.store import read_parquet
from stages.train.lora import Adapters, LoraSettings
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep
from stages.train.weights import final_file, load_trained
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import make_model
from tests.stages.train.test_loop import ALIGN, INSTRUCT, Killed, kill_at, losses, planned

LORA = LoraSettings(rank=4, alpha=8, dropout=0.1)
STEP = INSTRUCT.model_copy(update={"lora": LORA, "learn": {"connector": 1e-3, "language": 1e-2}})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def fed(tmp_path_factory, model):
    return planned(tmp_path_factory.mktemp("run"), model)


@pytest.fixture(scope="module")
def trained(fed, model):
    StepWork(fed, model, [ALIGN], 1).train()
    StepWork(fed, model, [ALIGN, STEP], 1).train()
    return fed


def objective_of(model, adapters=LORA):
    built, tokenizer = build_model(model, 1)
    made = Adapters(built.language, adapters, 1)
    return LanguageObjective(built, STEP.learned()), made, tokenizer


def test_nothing_but_adapters_of_the_language_model_learns(trained, model):
    names = objective_of(model)[0].parameters()
    assert set(names) == {"connector", "language"}
    assert names["language"] and all(".lora_" in name for name in names["language"])
    assert not any("lm_head" in name or "embed" in name for name in names["language"])
    for state in trained.path("checkpoints", "instruct", "state").glob("0*"):
        kept = load_file(state / "weights.safetensors")
        assert {name for name in kept if name.startswith("language.")} == {f"language.{n}" for n in names["language"]}
        learned = sum(value.numel() for value in kept.values())
        held = torch.load(state / "optimizer.pt")["state"].values()
        assert sum(one["exp_avg"].numel() for one in held) == learned


def test_weights_below_the_adapters_stay_and_the_rest_is_the_adapter(trained, model):
    before, _ = build_model(model, 1)
    load_trained(before, trained, ["align"])
    after, _ = build_model(model, 1)
    load_trained(after, trained, ["align", "instruct"])
    folder = trained.path("checkpoints", "instruct", "adapter")
    ids = torch.arange(1, 33)[None]
    old = dict(before.language.named_parameters())
    changed = {name for name, value in after.language.named_parameters() if not torch.equal(value, old[name])}
    assert changed == {name for name in old if "_proj" in name}
    with torch.no_grad():
        merged = after.language.eval()(ids).logits
        assert not torch.allclose(before.language(ids).logits, merged, atol=1e-2)
        beside = PeftModel.from_pretrained(before.language, folder).eval()(ids).logits
    assert torch.allclose(beside, merged, atol=1e-5)


def test_a_killed_step_with_adapters_ends_with_the_same_bytes(model, tmp_path, monkeypatch, trained):
    run = planned(tmp_path, model)
    StepWork(run, model, [ALIGN], 1).train()
    with monkeypatch.context() as patch:
        kill_at(patch, 3)
        with pytest.raises(Killed):
            StepWork(run, model, [ALIGN, STEP], 1).train()
    StepWork(run, model, [ALIGN, STEP], 1).train()
    assert losses(run, "instruct") == losses(trained, "instruct")
    names = [final_file("instruct")] + [
        f"checkpoints/instruct/adapter/{n}" for n in ("adapter_config.json", "adapter_model.safetensors")
    ]
    for name in names:
        assert digest_file(run.path(name)) == digest_file(trained.path(name)), name


def test_adapters_learn_beside_a_tower_that_is_not_stored(fed, model, trained):
    again = STEP.model_copy(update={"cache_features": False, "lora": LORA.model_copy(update={"dropout": 0.0})})
    reader, plan = PackReader(fed, ["train"]), read_parquet(fed.path("plan", "instruct.parquet"))
    objective, adapters, tokenizer = objective_of(model, again.lora)
    built = objective.model
    collate = LanguageCollate(reader, tokenizer, built.layout)
    batch = collate(next(PiecePlan(plan, 4).pieces()))
    with torch.no_grad():
        for name, value in objective.parameters()["language"].items():
            if "lora_B" in name:
                value.normal_(0, 0.05)
        beside = objective.loss(batch).item()
        adapters.merge()
        assert objective.loss(batch).item() == pytest.approx(beside, rel=1e-5)


def test_a_model_with_merged_adapters_is_exported(trained, model, tmp_path):
    built, tokenizer = build_model(model, 1, trained=True)
    load_trained(built, trained, ["align", "instruct"])
    export_llava(built, tokenizer, model, tmp_path / "model")
    loaded = dict(load_exported(tmp_path / "model").model.named_parameters())
    name = "model.layers.0.self_attn.q_proj.weight"
    ours = dict(built.language.named_parameters())[name]
    assert any(
        torch.equal(value, ours) for key, value in loaded.items() if key.endswith("layers.0.self_attn.q_proj.weight")
    )


def test_adapters_that_cannot_be_are_refused(model):
    with pytest.raises(InputError, match="lora.targets: .'query'. fits no layer .*down_proj, .*q_proj"):
        objective_of(model, LoraSettings(targets=["query"]))
    with pytest.raises(ValidationError, match="lora: adapters learn at the rate of `language`"):
        TrainStep(name="x", learn={"connector": 1e-3}, lora=LORA)
