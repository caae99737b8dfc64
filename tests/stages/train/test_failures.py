"""What ends training says what to change: no memory, a loss that is no number, damaged shards, foreign parts."""

import models.compat  # noqa: F401

# isort: split
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from models.full import build_model, save_weights
from schemas.errors import SluiceError
from schemas.tables import LENGTHS
from stages.feed import PackReader, write_plan
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.store import read_parquet
from stages.train.failures import explained
from stages.train.features import FeatureStore
from stages.train.lora import LoraSettings
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep
from stages.train.weights import final_file
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, make_model
from tests.stages.train.test_loop import ALIGN, INSTRUCT, planned


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def run(tmp_path, model):
    return planned(tmp_path, model)


def told(step, error, world=1, sharded=False):
    with pytest.raises(SluiceError) as caught, explained(step, world, sharded):
        raise error
    return str(caught.value)


def test_a_step_without_memory_says_what_needs_less(run, model, monkeypatch):
    monkeypatch.setattr(LanguageObjective, "_loss", lambda self, batch: torch.empty(1 << 50))
    step = INSTRUCT.model_copy(update={"cache_features": False})
    with pytest.raises(SluiceError, match="'instruct' ran out of memory .*can't allocate memory") as caught:
        StepWork(run, model, [step], 1).train()
    said = str(caught.value)
    assert "set train.instruct: accumulation: 2 (the result is the same; now 4 of packs_per_step: 4" in said
    assert "lower feed.tokens_per_pack" in said and "precision: bf16" in said and "lora: {rank: 128" in said
    assert "ray.shard" not in said


def test_only_what_helps_is_proposed():
    gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    small = INSTRUCT.model_copy(update={"precision": "bf16", "accumulation": 2, "lora": LoraSettings()})
    said = told(small, gpu, world=2)
    assert "Tried to allocate 20.00 GiB" in said and "ray.shard: true" in said
    assert "accumulation" not in said and "bf16" not in said and "lora" not in said
    assert "ray.shard" not in told(small, MemoryError(), world=2, sharded=True)
    pairs = TrainStep(name="clip", objective="contrastive", learn={"clip": 1e-3})
    assert "lower train.clip: batch (now 256)" in told(pairs, OSError(12, "Cannot allocate memory"))


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explained(INSTRUCT, 1, False):
        raise RuntimeError("shapes cannot be multiplied")


def test_a_loss_that_is_no_number_names_the_samples_of_its_step(run, model):
    wild = ALIGN.model_copy(update={"learn": {"connector": 1e30}, "clip_norm": 1e30, "schedule": "constant"})
    with pytest.raises(SluiceError, match=r"optimizer step \d+: the loss is .*lower the rates") as caught:
        StepWork(run, model, [wild], 1).train()
    number = int(str(caught.value).split("optimizer step ")[1].split(":")[0])
    plan = read_parquet(run.path("plan", "align.parquet"))
    packs = range(4 * number, 4 * number + 4)
    samples = [row["sample_id"] for row in plan.to_pylist() if row["pack"] in packs]
    listed = str(caught.value).split("Its samples were ")[1].split(" and ")[0].split(";")[0].split(", ")
    assert listed == list(dict.fromkeys(samples))[:8]
    assert "sluice trace RUN SAMPLE" in str(caught.value)


@pytest.mark.parametrize("member", ["picture", "json"])
def test_flipped_bytes_of_a_shard_name_it_and_the_sample(run, model, member):
    reader = PackReader(run, ["train"])
    row = {name: reader.index[name][0].as_py() for name in reader.index.column_names}
    path = run.path("shards", row["shard"])
    data = bytearray(path.read_bytes())
    data[row[f"{member}_offset"] + row[f"{member}_size"] // 2] ^= 1
    path.write_bytes(data)
    step = ALIGN.model_copy(update={"cache_features": False})
    with pytest.raises(
        SluiceError, match=rf"{row['shard']} is damaged: the {member} of sample {row['sample_id']}.*feed"
    ):
        StepWork(run, model, [step], 1).train()
    with pytest.raises(SluiceError, match="is damaged"):
        reader.read(0)


@pytest.mark.parametrize("name", ["shards/train-000001.index.parquet", "plan/align.parquet"])
@pytest.mark.parametrize("how", ["cut", "other"])
def test_a_broken_index_or_plan_is_named(run, model, name, how):
    data = run.path(name).read_bytes()
    other = pa.BufferOutputStream()
    pa.parquet.write_table(pa.Table.from_pylist([], LENGTHS), other)
    run.path(name).write_bytes(data[: len(data) // 2] if how == "cut" else other.getvalue().to_pybytes())
    with pytest.raises(SluiceError, match=rf"{name} cannot be read .*remove it and run the feed stage again"):
        StepWork(run, model, [ALIGN], 1).train()


def test_a_plan_of_another_tokenizer_is_refused(run, model, tmp_path):
    other = make_model(tmp_path / "other")
    language = other.language.model_copy(update={"chat_template": "bare"})
    with pytest.raises(SluiceError, match="not in the shards as the plan has it .*run the feed stage again"):
        StepWork(run, other.model_copy(update={"language": language}), [ALIGN], 1).train()


@pytest.mark.parametrize("broken", [b"", b"\x93NUMPY", None])
def test_features_of_other_pictures_are_refused(run, model, tmp_path, broken):
    built, _ = build_model(model, 1)
    path = tmp_path / "features.npy"
    if broken is None:
        np.save(path, np.zeros((3, 16, 8), np.float16))
    else:
        path.write_bytes(broken)
    with pytest.raises(SluiceError, match=r"features.npy .*remove it, and .* computed"):
        FeatureStore.build(path, built, PackReader(run, ["train"]), "fp32")


def test_a_token_beyond_the_vocabulary_is_refused(run, model):
    built, tokenizer = build_model(model, 1)
    collate = LanguageCollate(PackReader(run, ["train"]), tokenizer, built.layout)
    batch = collate(next(PiecePlan(read_parquet(run.path("plan", "align.parquet")), 4).pieces()))
    ids = batch.input_ids.clone()
    ids[0, -1] = 5000
    objective = LanguageObjective(built, ALIGN.learned())
    with pytest.raises(
        SluiceError, match=r"pack 0 holds the token 5000, but the language model embeds \d+: .*tokenizer"
    ):
        objective.loss(replace(batch, input_ids=ids))


def test_weights_of_another_vocabulary_are_refused(run, model):
    StepWork(run, model, [ALIGN], 1).train()
    config = {**model.language.config, "vocab_size": 400}
    other, _ = build_model(
        model.model_copy(update={"language": model.language.model_copy(update={"config": config})}), 1
    )
    save_weights(other, run.path(final_file("align")))
    write_plan(run, INSTRUCT, FEED, seed=1)
    with pytest.raises(
        SluiceError, match=r"weights of another model: language.*\[400, 64\] in it and \[\d+, 64\] .*vocab"
    ):
        StepWork(run, model, [ALIGN, INSTRUCT], 1).train()
