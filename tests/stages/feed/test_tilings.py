"""Pictures of different sizes have different numbers of tokens and tiles: lengths, plan, batches and features agree."""

import pytest
import torch

from models.full import ModelSettings, build_model
from stages.evaluate import EvaluateSettings, evaluate
from stages.feed import FeedSettings, PackReader, plan_packs
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.train.features import FeatureStore
from stages.train.objectives import LanguageObjective
from tests.stages.feed.tiny_run import feed_all, make_model, make_run, one_colour

SIZES = ((48, 40), (200, 60), (60, 90), (30, 140), (256, 256))
FEED = FeedSettings(tokens_per_pack=1024, pictures_per_pack=12)


@pytest.fixture(scope="module", params=["anyres", "overlap"])
def model(request, tmp_path_factory):
    torch.set_num_threads(1)
    plain = make_model(tmp_path_factory.mktemp("tokenizer"))
    tiling = {"name": "overlap", "crops": 4, "margins": [2, 2]} if request.param == "overlap" else "anyres"
    return ModelSettings.model_validate(
        {**plain.model_dump(mode="json"), "tiling": tiling, "connector": "mean_pool_mlp"}
    )


@pytest.fixture
def run(tmp_path, model):
    run = make_run(tmp_path, draw=lambda number: one_colour(number).resize(SIZES[number % len(SIZES)]))
    feed_all(run, model, FEED)
    return run


def test_batches_hold_the_tokens_and_tiles_that_the_plan_counted(run, model):
    built, tokenizer = build_model(model, 1)
    lengths = {row["conversation_id"]: row for row in run.read_table("lengths").to_pylist()}
    assert len({row["tiles"] for row in lengths.values()}) > 1
    plan = plan_packs(run.read_table("lengths"), FEED.tokens_per_pack, 0, pictures_per_pack=FEED.pictures_per_pack)
    collate = LanguageCollate(PackReader(run, ["train"]), tokenizer, built.layout)
    shown = 0
    for piece in PiecePlan(plan, 2).pieces():
        batch = collate(piece)  # says no where a conversation has not the length of the plan
        assert batch.tiles == [lengths[row["conversation_id"]]["tiles"] for pack in piece.packs for row in pack]
        assert sum(batch.tiles) == len(batch.pixel_values)
        assert int((batch.input_ids == built.image_token_id).sum()) == len(batch.picture_order)
        for pack in piece.packs:
            assert sum(lengths[row["conversation_id"]]["tiles"] for row in pack) <= FEED.pictures_per_pack
        shown += len(batch.samples)
    assert shown == len(plan)


def test_cached_features_give_the_loss_of_the_pixels(run, model):
    built, tokenizer = build_model(model, 1)
    reader = PackReader(run, ["train"])
    store = FeatureStore.build(run.path("features", "x.npy"), built, reader, "fp32")
    assert FeatureStore.gigabytes(built, reader, "fp32") == pytest.approx(store.features.nbytes / 1e9)
    piece = next(PiecePlan(plan_packs(run.read_table("lengths"), FEED.tokens_per_pack, 0), 2).pieces())
    losses = []
    for features in (None, store):
        collate = LanguageCollate(reader, tokenizer, built.layout, pixels=features is None)
        with torch.no_grad():
            losses.append(LanguageObjective(built, {"connector": 1e-3}, features=features).loss(collate(piece)).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_blind_pictures_have_the_size_of_those_they_stand_for(run):
    asked = []

    def ask(questions, pictures):
        asked.append([picture.size for picture in pictures])
        return [""] * len(questions)

    evaluate(run, ask, EvaluateSettings.model_construct(kinds=["colour"], questions=100, resamples=100), 0)
    seen, blank, _ = asked
    assert len(set(seen)) > 1
    assert blank == seen
