"""Two ranks that share one model learn what one rank with all of it does; states of one can be resumed by the other."""

import models.compat  # noqa: F401

# isort: split
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from models.full import build_model
from schemas.identity import digest_file
from stages.feed import PackReader, write_plan
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.run_folder import RunFolder
from stages.store import read_parquet
from stages.train import work as work_module
from stages.train.checkpoint import CheckpointFolder
from stages.train.lora import LoraSettings
from stages.train.objectives import LanguageObjective
from stages.train.sharding import summed
from stages.train.weights import final_file
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import FEED, make_model
from tests.stages.train.children import CHILDREN
from tests.stages.train.test_loop import INSTRUCT, Killed, losses, planned

#: The tower learns, so it is in every forward pass.
STEP = INSTRUCT.model_copy(
    update={
        "learn": {"vision": 1e-4, "connector": 1e-3, "language": 1e-3},
        "eps": 1e-4,
        "accumulation": 2,
        "packs_per_step": 4,
    }
)
LORA = STEP.model_copy(
    update={"learn": {"connector": 1e-3, "language": 1e-3}, "lora": LoraSettings(rank=4, alpha=8, dropout=0.0)}
)
#: What two ranks do one after the other: folder, step, and whether it ends at its first state as if it were killed.
JOBS = [
    ("all", STEP, False),
    ("lora", LORA, False),
    ("again", STEP, True),
    ("again", STEP, False),
    ("fewer", STEP, True),
]


def as_rank(rank, root, model):
    """Does the jobs as one of two ranks."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{root / 'store'}", rank=rank, world_size=2)
    try:
        for folder, step, killed in JOBS:
            run = planned_run(root, folder)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(work_module, "train_step", _checked(work_module.train_step))
                if not killed:
                    StepWork(run, model, [step], 1).train(rank, 2, "cpu", sharded=True)
                    continue
                patch.setattr(CheckpointFolder, "save", _then_die(CheckpointFolder.save))
                with pytest.raises(Killed):
                    StepWork(run, model, [step], 1).train(rank, 2, "cpu", sharded=True)
    finally:
        distributed.destroy_process_group()


def planned_run(root, folder):
    return RunFolder(root / folder)


def _checked(train):
    def wrapped(objective, batches, step, total, optimizer, *more, **named):
        held = [value for group in optimizer.param_groups for value in group["params"]]
        assert objective.sharded and all(summed(value) for value in held)
        assert sum(value.to_local().numel() for value in held) < sum(value.numel() for value in held)
        return train(objective, batches, step, total, optimizer, *more, **named)

    return wrapped


def _then_die(save):
    def wrapped(*arguments, **named):
        save(*arguments, **named)
        raise Killed

    return wrapped


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The runs by name: `alone` and `alone-lora` of one rank, the others of two that share the model."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("runs")
    model = make_model(root / "tokenizer")
    made = {}
    for name, step in [("alone", STEP), ("alone-lora", LORA), *{job[0]: job[1] for job in JOBS}.items()]:
        made[name] = planned(root / name, model)
        write_plan(made[name], step, FEED.model_copy(update={"pictures_per_pack": 2}), seed=1)
    other = CHILDREN.Process(target=as_rank, args=(1, root, model))
    other.start()
    try:
        as_rank(0, root, model)
    finally:
        other.join()
    assert other.exitcode == 0
    for name, step in [("alone", STEP), ("alone-lora", LORA), ("fewer", STEP)]:
        StepWork(made[name], model, [step], 1).train()
    return made, model


@pytest.mark.parametrize(("one", "two"), [("alone", "all"), ("alone-lora", "lora"), ("alone", "fewer")])
def test_ranks_that_share_a_model_learn_what_one_does(runs, one, two):
    """`fewer` went on alone from a state that two had written."""
    alone, shared = runs[0][one], runs[0][two]
    assert losses(shared, "instruct") == pytest.approx(losses(alone, "instruct"), rel=1e-5)
    kept, other = (load_file(run.path(final_file("instruct"))) for run in (alone, shared))
    assert kept.keys() == other.keys()
    assert all(torch.allclose(kept[name], other[name], atol=1e-5) for name in kept)


def test_ranks_that_share_a_model_go_on_as_if_they_had_not_been_killed(runs):
    whole, again = runs[0]["all"], runs[0]["again"]
    assert losses(again, "instruct") == losses(whole, "instruct")
    assert digest_file(again.path(final_file("instruct"))) == digest_file(whole.path(final_file("instruct")))


def test_the_plan_leaves_a_rank_without_a_pack_at_the_end(runs):
    run, _ = runs[0]["all"], None
    plan = read_parquet(run.path("plan", "instruct.parquet"))
    assert any(not piece.packs for piece in PiecePlan(plan, 4, 2, rank=1, world=2).pieces())


def test_a_blank_picture_changes_neither_loss_nor_gradient(runs):
    made, settings = runs
    model, tokenizer = build_model(settings, 1)
    collate = LanguageCollate(PackReader(made["alone"], ["train"]), tokenizer, model.layout, pixels=False)
    plan = read_parquet(made["alone"].path("plan", "instruct.parquet"))
    batch = collate(next(PiecePlan(plan, 4).pieces()))
    ids = torch.where(batch.input_ids == model.image_token_id, tokenizer.pad_token_id, batch.input_ids)
    batch = replace(batch, input_ids=ids, samples=[], tiles=[], picture_order=None)
    found = []
    for sharded in (False, True):
        objective = LanguageObjective(model, STEP.learned())
        objective.sharded = sharded
        loss = objective.loss(batch)
        loss.backward()
        found.append((loss.item(), model.language.get_input_embeddings().weight.grad.clone()))
        model.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6)
