"""The loop's arithmetic does not depend on how steps are cut, and a stopped step goes on as if it had not been."""

import json
import math

import models.compat  # noqa: F401

# isort: split
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import distributed, nn

from models.clip import load_clip
from models.full import build_model
from schemas.errors import InputError, SluiceError
from schemas.identity import digest_file
from stages.feed import PackReader, write_plan
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.train import work as work_module
from stages.train.features import FeatureStore
from stages.train.logs import log_path, read_log
from stages.train.loop import Progress, make_optimizer, rate_factor, train_step
from stages.train.objectives import LanguageObjective
from stages.train.settings import TrainStep
from stages.train.weights import final_file, load_trained
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run
from tests.stages.train.children import CHILDREN

STEP = {"learn": {"connector": 3e-3}, "packs_per_step": 4, "precision": "fp32", "log_every": 1, "checkpoint_every": 2}
# The eps keeps AdamW from turning rounding errors of tiny gradients into whole steps.
ALIGN = TrainStep(eps=1e-4, name="align", epochs=2, **STEP)
INSTRUCT = TrainStep(name="instruct", **{**STEP, "learn": {"connector": 1e-3, "language": 3e-3}})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def run(tmp_path, model):
    return planned(tmp_path, model)


def planned(path, model):
    run = make_run(path)
    feed_all(run, model)
    feed = FEED.model_copy(update={"pictures_per_pack": 2})
    for step in (ALIGN, INSTRUCT):
        write_plan(run, step, feed, seed=1)
    return run


def losses(run, name):
    return [line["loss"] for line in read_log(log_path(run, name))]


def after_steps(run, settings, step, rank=0, world=1, steps=2):
    """The connector and the losses after two optimizer steps of the loop."""
    model, tokenizer = build_model(settings, 1)
    plan = pq.read_table(run.path("plan", "align.parquet"))
    pieces = PiecePlan(plan, step.packs_per_step, step.accumulation, rank, world, max_steps=steps)
    reader = PackReader(run, ["train"])
    collate = LanguageCollate(reader, tokenizer, model.layout)
    objective = LanguageObjective(model, step.learned(), step.precision)
    lines = []
    optimizer = make_optimizer(objective, step)
    batches = map(collate, pieces.pieces())
    train_step(objective, batches, step, pieces.steps, optimizer, Progress(), lines.append, lambda progress: None)
    return nn.utils.parameters_to_vector(model.connector.parameters()).detach(), [line["loss"] for line in lines]


def test_accumulation_changes_nothing(run, model):
    whole, whole_losses = after_steps(run, model, ALIGN.model_copy(update={"packs_per_step": 8}))
    cut, cut_losses = after_steps(run, model, ALIGN.model_copy(update={"packs_per_step": 8, "accumulation": 8}))
    assert cut_losses == pytest.approx(whole_losses, rel=1e-5)
    assert torch.allclose(whole, cut, atol=1e-5)


def as_rank(rank, store, run, settings):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return after_steps(run, settings, ALIGN, rank, 2)
    finally:
        distributed.destroy_process_group()


def test_two_ranks_learn_what_one_does(run, model, tmp_path):
    whole, whole_losses = after_steps(run, model, ALIGN)
    other = CHILDREN.Process(target=as_rank, args=(1, tmp_path / "store", run, model))
    other.start()
    shared, shared_losses = as_rank(0, tmp_path / "store", run, model)
    other.join()
    assert other.exitcode == 0
    assert shared_losses == pytest.approx(whole_losses, rel=1e-5)
    assert torch.allclose(whole, shared, atol=1e-5)


def test_packed_conversations_have_the_loss_that_they_have_alone(run, model):
    built, tokenizer = build_model(model, 1)
    reader = PackReader(run, ["train"])
    collate = LanguageCollate(reader, tokenizer, built.layout)
    objective = LanguageObjective(built, {"connector": 1e-3})
    plan = pq.read_table(run.path("plan", "align.parquet"))
    piece = next(PiecePlan(plan, 4).pieces())
    rows = [[row] for pack in piece.packs for row in pack]
    alone = type(piece)(0, True, piece.divisor, rows)
    assert len(rows) > len(piece.packs)
    packed_loss, alone_loss = objective.loss(collate(piece)), objective.loss(collate(alone))
    assert packed_loss.item() == pytest.approx(alone_loss.item(), rel=1e-5)


def test_steps_learn_their_parts_and_leave_the_others(run, model):
    StepWork(run, model, [ALIGN], 1).train()
    assert {name.split(".")[0] for name in load_file(run.path(final_file("align")))} == {"connector"}
    StepWork(run, model, [ALIGN, INSTRUCT], 1).train()
    before, after = build_model(model, 1)[0], build_model(model, 1)[0]
    load_trained(after, run, ["align", "instruct"])
    for part, module in before.parts().items():
        pairs = zip(module.parameters(), after.parts()[part].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs) == (part == "vision")
    seen = losses(run, "align") + losses(run, "instruct")
    assert seen == pytest.approx(sorted(seen, reverse=True), abs=0.2)
    assert seen[-1] < seen[0] - 1


class Killed(Exception):
    """What stands for kill -9 in process: nothing is tidied up."""


def kill_at(monkeypatch, step):
    write = work_module.StepLog.write

    def stop(self, line):
        write(self, line)
        if line["step"] == step:
            raise Killed

    monkeypatch.setattr(work_module.StepLog, "write", stop)


@pytest.mark.parametrize("cached", [True, False])
def test_a_killed_step_ends_with_the_same_bytes_and_the_same_log(model, tmp_path, monkeypatch, cached):
    step = INSTRUCT.model_copy(update={"cache_features": cached, "log_every": 3, "epochs": 2})
    runs = [planned(tmp_path / name, model) for name in ("whole", "killed")]
    for run in runs:
        write_plan(run, step, FEED.model_copy(update={"pictures_per_pack": 2}), seed=1)
    StepWork(runs[0], model, [step], 1).train()
    with monkeypatch.context() as patch:
        kill_at(patch, 9)
        with pytest.raises(Killed):
            StepWork(runs[1], model, [step], 1).train()
    states = sorted(path.name for path in runs[1].path("checkpoints", "instruct", "state").iterdir())
    assert states == ["00000006", "00000008"]
    assert not StepWork(runs[1], model, [step], 1).done()
    StepWork(runs[1], model, [step], 1).train()
    assert losses(runs[0], "instruct") == losses(runs[1], "instruct")
    assert digest_file(runs[0].path(final_file("instruct"))) == digest_file(runs[1].path(final_file("instruct")))
    assert StepWork(runs[1], model, [step], 1).done()


def test_a_step_is_done_until_what_it_depends_on_changes(run, model):
    StepWork(run, model, [ALIGN], 1).train()
    assert StepWork(run, model, [ALIGN.model_copy(update={"log_every": 5})], 1).done()
    faster = ALIGN.model_copy(update={"learn": {"connector": 1e-2}})
    assert not StepWork(run, model, [faster], 1).done()
    assert not StepWork(run, model, [ALIGN], 2).done()
    StepWork(run, model, [faster], 1).train()  # does not go on from the other rate's checkpoint
    assert len(losses(run, "align")) == read_log(log_path(run, "align"))[-1]["steps"]


def test_arguments_make_the_same_work(run, model):
    work = StepWork(run, model, [ALIGN, INSTRUCT], 1)
    again = StepWork.from_arguments(json.loads(json.dumps(work.arguments())))
    assert again.key() == work.key()


def test_cached_features_are_those_of_the_tower_up_to_rounding(run, model):
    built, _ = build_model(model, 1)
    reader = PackReader(run, ["train"])
    store = FeatureStore.build(run.path("features", "x.npy"), built, reader, "fp32")
    sample = reader.read(3)
    with torch.no_grad():
        fresh = built.vision(built.layout.tensor(sample.picture))
    assert torch.allclose(store.read([sample.sample_id]), fresh, rtol=1e-3, atol=1e-3)
    assert FeatureStore.gigabytes(built, reader, "fp32") == pytest.approx(store.features.nbytes / 1e9)


def test_a_store_that_needs_too_much_room_is_not_made(run, model):
    StepWork(run, model, [ALIGN.model_copy(update={"cache_gb": 1e-6, "max_steps": 1})], 1).train()
    assert not run.path("features").exists()


def test_a_loss_that_is_no_number_ends_the_step_with_a_remedy(run, model):
    wild = ALIGN.model_copy(
        update={"learn": {"connector": 1e30}, "clip_norm": 1e30, "epochs": 3, "schedule": "constant"}
    )
    with pytest.raises(SluiceError, match=r"'align', optimizer step \d+: the loss is .*lower the rates in learn"):
        StepWork(run, model, [wild], 1).train()


def test_packs_that_cannot_be_shared_out_are_refused(run, model):
    with pytest.raises(InputError, match="multiple of 3"):
        StepWork(run, model, [ALIGN.model_copy(update={"accumulation": 3})], 1).train()


def test_rates_rise_then_fall():
    rates = [rate_factor(done, 100, 10, "cosine") for done in range(100)]
    assert rates[:11] == sorted(rates[:11])
    assert max(rates) == rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
    assert rate_factor(50, 100, 10, "constant") == 1
    assert rate_factor(0, 1, 1, "cosine") > 0


def test_rates_end_at_the_share_that_the_recipe_says():
    assert rate_factor(100, 100, 10, "cosine", 0.1) == pytest.approx(0.1)
    assert rate_factor(55, 100, 10, "cosine", 0.1) == pytest.approx(0.55)
    assert rate_factor(10, 100, 10, "cosine", 0.1) == 1


def test_each_part_has_its_own_warm_up():
    """Molmo's: 200 steps for the connector, 2,000 for the other two (Deitke et al. 2024, section 4)."""
    learn = {"connector": {"rate": 2e-4, "warmup_steps": 200}, "vision": 6e-6, "language": {"rate": 2e-5}}
    step = TrainStep(name="captions", learn=learn, warmup_steps=2000, min_rate=0.1)
    assert [step.warmup(part, 22000) for part in ("connector", "vision", "language")] == [200, 2000, 2000]
    assert step.learned() == {"connector": 2e-4, "language": 2e-5, "vision": 6e-6}
    assert TrainStep(name="x", learn={"connector": 1}, warmup_fraction=0.1).warmup("connector", 95) == 10


def test_a_resolved_step_says_the_same_again():
    step = TrainStep(
        name="x", learn={"connector": {"rate": 1e-3, "warmup_steps": 7}}, warmup_steps=9, schedule="constant"
    )
    assert TrainStep.model_validate(step.model_dump(mode="json", exclude_none=True)) == step


def test_parts_learn_at_their_own_rates(run, model):
    step = INSTRUCT.model_copy(update={"max_steps": 4, "warmup_steps": 1, "log_every": 1})
    learn = {"connector": {"rate": 1e-3, "warmup_steps": 3}, "language": 3e-3}
    step = TrainStep.model_validate(step.model_dump(mode="json") | {"learn": learn, "min_rate": 0.5})
    StepWork(run, model, [step], 1).train()
    lines = read_log(log_path(run, "instruct"))
    assert [line["lr"]["connector"] for line in lines] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    half = [0.5 + 0.5 * 0.5 * (1 + math.cos(math.pi * done / 3)) for done in (0, 1, 2)]
    assert [line["lr"]["language"] for line in lines] == pytest.approx([1.5e-3, *(3e-3 * share for share in half)])
    for line in lines:
        whole = math.hypot(line["gradients"]["connector"], line["gradients"]["language"])
        assert line["gradient"] == pytest.approx(whole)


def test_z_loss_is_the_square_of_log_z_on_supervised_tokens(run, model):
    built, tokenizer = build_model(model, 1)
    reader = PackReader(run, ["train"])
    collate = LanguageCollate(reader, tokenizer, built.layout)
    batch = collate(next(PiecePlan(pq.read_table(run.path("plan", "align.parquet")), 4).pieces()))
    plain = LanguageObjective(built, {"connector": 1e-3})
    penalised = LanguageObjective(built, {"connector": 1e-3}, z_loss=0.5)
    with torch.no_grad():
        logits = built(batch.input_ids, batch.position_ids, batch.pixel_values)
    learned = batch.labels[:, 1:] != -100
    expected = 0.5 * logits[:, :-1].exp().sum(-1).log().square()[learned].sum()
    assert penalised.loss(batch).item() == pytest.approx((plain.loss(batch) + expected).item(), rel=1e-5)
    with penalised.measuring():
        assert penalised.loss(batch).item() == pytest.approx(plain.loss(batch).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learn": {"tower": 1.0}}, "'tower' is no part of a language step: connector, language, vision"),
        ({"learn": {"language": 0}}, "no part has a rate above 0"),
        ({"learn": {"clip": 1e-3}, "objective": "contrastive", "accumulation": 2}, "set `batch` alone"),
        ({"learn": {"clip": 1e-3}, "objective": "contrastive", "z_loss": 1e-4}, "has no tokens; leave it out"),
        ({"learn": {"connector": 1e-3}, "word_loss": 0.1}, "learns words anyway"),
        ({"learn": {"language": -1}}, "the rate of 'language' must be 0 or more"),
        ({"learn": {"language": {"warmup_steps": 3}}}, "Field required"),
        ({"learn": {"language": "fast"}}, "should be a valid number"),
        ({"learn": {"language": 1}, "warmup_steps": 3, "warmup_fraction": 0.1}, "either warmup_steps or"),
        ({"learn": {"language": 1}, "min_rate": 0.1, "schedule": "constant"}, "set schedule: cosine"),
    ],
)
def test_steps_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        TrainStep(name="x", **values)


@pytest.mark.parametrize("word_loss", [0, 0.1])
def test_contrastive_training_leaves_a_model_that_pretrained_takes(tmp_path, word_loss):
    torch.set_num_threads(1)
    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "sluice-test-pairs.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "sluice-test-pairs.json")
    run = make_run(tmp_path)
    feed_all(run, None)
    step = TrainStep(
        name="clip",
        objective="contrastive",
        model="sluice-test-pairs",
        learn={"clip": 3e-3},
        batch=9,
        epochs=4,
        precision="fp32",
        log_every=1,
        word_loss=word_loss,
    )
    write_plan(run, step, FEED, seed=1)
    StepWork(run, None, [step], 1).train()
    seen = losses(run, "clip")
    assert len(seen) == 8
    if not word_loss:
        assert seen[0] == pytest.approx(math.log(9), abs=0.3)
    assert sum(seen[-2:]) < sum(seen[:2])
    trained = load_clip("sluice-test-pairs", str(run.path(final_file("clip"))))
    sample = PackReader(run, ["train"]).read(0)
    assert trained.encode_pictures([sample.jpeg]).shape == (1, trained.dim)
    kept = load_file(run.path(final_file("clip")))
    assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float16}
