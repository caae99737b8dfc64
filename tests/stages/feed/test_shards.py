"""Shards: the same bytes every time, read by webdataset as they are, and by number through their index."""

import io

import models.compat  # noqa: F401

# isort: split
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image

from models.chat import NO_LOSS, encode
from models.full import picture_layout
from models.language import load_tokenizer
from schemas.errors import SluiceError
from schemas.identity import digest_file
from schemas.tables import LENGTHS, SHARD_INDEX
from stages.feed import PackReader, plan_batches, plan_packs, write_plan
from stages.feed.batches import LanguageCollate, PairCollate, PiecePlan, prefetch
from stages.train.settings import TrainStep
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, model):
    run = make_run(tmp_path_factory.mktemp("run"), long_row=5)
    feed_all(run, model)
    return run


def test_the_same_input_gives_the_same_bytes(run, model, tmp_path):
    again = make_run(tmp_path, long_row=5)
    feed_all(again, model)
    for folder in ("shards", "lengths", "feed"):
        names = sorted(path.name for path in run.path(folder).iterdir())
        assert names == sorted(path.name for path in again.path(folder).iterdir())
        for name in names:
            assert digest_file(run.path(folder, name)) == digest_file(again.path(folder, name))


def test_kept_samples_are_in_the_shard_of_their_split_and_no_others(run):
    decisions = pq.read_table(run.path("decisions.parquet")).to_pylist()
    dropped = {row["sample_id"]: row["reason"] for row in run.read_table("feed").to_pylist()}
    for split in ("train", "val"):
        wanted = {row["sample_id"] for row in decisions if row["split"] == split} - dropped.keys()
        assert set(PackReader(run, [split]).sample_ids) == wanted
    assert list(dropped.values()) == ["too_long"]
    assert run.manifest("feed", 0)["counts"] == {"train": 8, "val": 2, "too_long": 1}


def test_one_range_of_the_shard_holds_the_sample_whole(run):
    reader = PackReader(run)
    assert reader.index.schema == SHARD_INDEX
    for row in reader.index.to_pylist():
        data = run.path("shards", row["shard"]).read_bytes()
        picture = data[row["picture_offset"] : row["picture_offset"] + row["picture_size"]]
        assert Image.open(io.BytesIO(picture)).size == (48, 40)
        sample = reader.read(row["sample_id"])
        assert sample.jpeg == picture == reader.jpeg(row["sample_id"])
        assert sample.sample_id == row["sample_id"]
        assert sample.record == reader.record(reader.number(row["sample_id"]))
        assert row["offset"] + 512 == row["picture_offset"]
        assert row["offset"] + row["size"] == row["json_offset"] + row["json_size"]


def test_webdataset_reads_the_shards_as_they_are(run):
    shards = [str(path) for path in sorted(run.path("shards").glob("train-*.tar"))]
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    reader = PackReader(run, ["train"])
    assert [sample["json"]["sample_id"] for sample in read] == reader.sample_ids
    first = read[0]["json"]
    assert read[0]["jpg"].size == (48, 40)
    assert first["licence"] == "CC0"
    assert len(first["captions"]) == 2
    assert first["boxes"][0]["w"] == 48
    assert [one["kind"] for one in first["conversations"]] == ["detail", "template"]


def test_lengths_are_those_of_the_tokens(run, model):
    tokenizer, reader = load_tokenizer(model.language), PackReader(run)
    lengths = run.read_table("lengths")
    assert lengths.schema == LENGTHS
    for row in lengths.to_pylist():
        said = [
            one for one in reader.read(row["sample_id"]).conversations if one.conversation_id == row["conversation_id"]
        ]
        encoded = encode(said[0], tokenizer, picture_layout(model).tile_tokens)
        assert row["length"] == len(encoded.input_ids) <= FEED.tokens_per_pack
        assert row["supervised"] == sum(label != NO_LOSS for label in encoded.labels) > 0


def test_a_second_run_does_nothing_until_the_tokenizer_or_the_pack_changes(run, model, tmp_path):
    work = feed_all(run, model)
    assert all(work.done(part) for part in run.parts())
    other = FEED.model_copy(update={"tokens_per_pack": 256})
    assert not type(work)(run, other, model).done(0)
    wider = FEED.model_copy(update={"window": 9, "actors": 2})
    assert type(work)(run, wider, model).done(0)


def test_without_a_model_samples_are_fed_as_pairs(tmp_path):
    run = make_run(tmp_path)
    feed_all(run, None)
    lengths = run.read_table("lengths")
    assert set(lengths["length"].to_pylist()) == {1}
    assert len(PackReader(run)) == 22
    plan = plan_batches(lengths, 8, seed=0)
    pieces = list(PiecePlan(plan, 1).pieces())
    assert [piece.divisor for piece in pieces] == [6, 6, 6]

    def preprocess(picture):
        return torch.tensor(picture.size).float().expand(3, 4, 2)

    def tokenizer(texts):
        return torch.tensor([[len(text)] for text in texts])

    collate = PairCollate(PackReader(run), preprocess, tokenizer, seed=0, augment=0.3)
    batches = [collate(piece) for piece in pieces]
    assert torch.equal(batches[0].pixel_values, collate(pieces[0]).pixel_values)
    assert batches[0].pixel_values.amax() <= 48
    assert len({tuple(row) for batch in batches for row in batch.pixel_values[:, 0, 0].tolist()}) > 3
    assert {len(batch.texts) for batch in batches} == {6}


def test_batches_hold_the_plan_and_nothing_else(run, model):
    tokenizer, reader = load_tokenizer(model.language), PackReader(run, ["train"])
    plan = plan_packs(run.read_table("lengths"), FEED.tokens_per_pack, 0, 1, pictures_per_pack=3)
    collate = LanguageCollate(reader, tokenizer, picture_layout(model))
    seen = []
    for batch in prefetch(PiecePlan(plan, 4).pieces(), collate):
        seen += [row for row in plan.to_pylist() if row["pack"] in batch.packs]
        assert batch.input_ids.shape[1] % 32 == 0
        assert batch.pixel_values.shape[0] == len(batch.samples)
        assert (batch.labels != NO_LOSS).sum() == batch.divisor
        picture = tokenizer.convert_tokens_to_ids("<image>")
        assert (batch.input_ids == picture).sum() == len(batch.samples) * picture_layout(model).tile_tokens
        for number, pack in enumerate(batch.packs):
            rows = [row for row in plan.to_pylist() if row["pack"] == pack]
            begin = 0
            for row in rows:
                assert batch.position_ids[number, begin : begin + row["length"]].tolist() == list(range(row["length"]))
                begin += row["length"]
            padding = batch.position_ids[number, begin:]
            assert padding.tolist() == list(range(len(padding)))
            assert (batch.labels[number, begin:] == NO_LOSS).all()
    assert seen == plan.to_pylist()


@pytest.mark.parametrize(("accumulation", "world"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_ranks_and_accumulations_read_each_pack_once_and_agree_on_the_divisor(run, accumulation, world):
    plan = plan_packs(run.read_table("lengths"), FEED.tokens_per_pack, 0, 2, pictures_per_pack=2)
    whole = {piece.step: piece for piece in PiecePlan(plan, 4).pieces()}
    read: dict[int, list[int]] = {}
    for rank in range(world):
        for piece in PiecePlan(plan, 4, accumulation, rank, world).pieces(from_step=1):
            assert piece.divisor == whole[piece.step].divisor
            read.setdefault(piece.step, []).extend(rows[0]["pack"] for rows in piece.packs)
    assert {step: sorted(packs) for step, packs in read.items()} == {
        step: [rows[0]["pack"] for rows in piece.packs] for step, piece in whole.items() if step >= 1
    }


def test_the_plan_is_written_once_and_again_when_its_settings_change(run):
    step = TrainStep(name="align", learn={"connector": 1e-3}, epochs=2)
    counts = write_plan(run, step, FEED, seed=1)
    before = run.output_digest("plan", "align")
    assert counts["conversations"] == 2 * sum(row == "train" for row in run.read_table("lengths")["split"].to_pylist())
    assert 0 < counts["fill"] <= 1
    write_plan(run, step.model_copy(update={"learn": {"connector": 1.0}}), FEED, seed=1)
    assert run.output_digest("plan", "align") == before
    write_plan(run, step, FEED, seed=2)
    assert run.output_digest("plan", "align") != before


def test_missing_and_cut_shards_are_named(run, tmp_path, model):
    with pytest.raises(SluiceError, match="feed stage"):
        len(PackReader(make_run(tmp_path)))
    feed_all(make_run(tmp_path), model)
    cut = make_run(tmp_path).path("shards", "train-000000.tar")
    cut.write_bytes(cut.read_bytes()[:700])
    with pytest.raises(SluiceError, match=r"train-000000\.tar is cut short"):
        PackReader(make_run(tmp_path), ["train"]).read(0)


def test_an_index_is_not_read_for_parts_that_the_source_lost(run):
    stale = run.path("shards", "train-000009.index.parquet")
    pq.write_table(pa.Table.from_pylist([], SHARD_INDEX), stale)
    try:
        assert len(PackReader(run, ["train"])) == 17
    finally:
        stale.unlink()
