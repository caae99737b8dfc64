"""Conversations about no picture, from LLaVA's JSON through the line beside pictures, and back to it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import models.compat  # noqa: F401

# isort: split
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console

from models.chat import NO_LOSS, encode
from models.full import build_model
from models.language import load_tokenizer
from pipelines.line import Line, export_llava_json, prepare
from pipelines.recipe import Recipe, parse_recipe
from pipelines.report import write_report
from pipelines.trace import show_trace
from schemas.conversation import Conversation, Turn
from schemas.tables import DECISIONS, SAMPLES
from stages.acquire import AcquireWork
from stages.embed import EmbedWork
from stages.evaluate import held_out_questions
from stages.feed import PackReader, ShardWork, plan_batches, write_plan
from stages.feed.batches import LanguageCollate, Piece, PiecePlan
from stages.instruct import InstructSettings, InstructWork
from stages.ledger import write_ledger
from stages.run_folder import RunFolder
from stages.select import write_decisions
from stages.source import SourceSettings, read_source, write_parts
from stages.tar import read_members
from stages.train.features import FeatureStore
from stages.train.objectives import LanguageObjective
from stages.train.work import StepWork
from tests.stages.feed.tiny_run import make_model

COLOURS = ["red", "green", "blue", "white", "black", "yellow"]


def talk(*said: str) -> list[dict[str, str]]:
    return [{"from": "gpt" if number % 2 else "human", "value": value} for number, value in enumerate(said)]


def make_source(root: Path) -> Path:
    """Pictures of one colour with a question each, and as many conversations without a picture; two of them broken."""
    root.mkdir()
    records: list[dict[str, Any]] = []
    for number, colour in enumerate(COLOURS * 2):
        noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).resize((64, 64)).save(root / f"{number}.png")
        said = talk("<image>\nWhich colour?", colour, "Is it a field?", "Yes.")
        records.append({"id": f"p{number}", "image": f"{number}.png", "conversations": said})
        records.append({"id": f"t{number}", "conversations": talk(f"Say {number}.", f"A field, {number}.")})
    records.append({"id": "b0", "conversations": talk("No answer?", "Two answers.", "and more")})
    records.append({"id": "b1", "conversations": talk("<image>\nWhere is the picture?", "Not here.")})
    path = root / "llava.json"
    path.write_text(json.dumps(records))
    return path


def make_recipe(root: Path) -> Recipe:
    return parse_recipe(
        {
            "name": "t",
            "source": {"table": str(make_source(root / "given")), "pictures": str(root / "given"), "rows_per_part": 10},
            "acquire": {"size": 64},
            "select": {
                "clip": {"model": "sluice-filter-64", "pretrained": "none", "keep": {"top": 0.75}},
                "rules": {"min_caption_words": None, "min_side_px": 64},
            },
            "instruct": {"kinds": {"source": 1, "caption": 1}},
            "feed": {"tokens_per_pack": 512, "pictures_per_pack": 8, "holdout": 0.2},
            "model": make_model(root / "tokenizer").model_dump(),
            "train": [
                {"name": "align", "learn": {"connector": 1e-3}, "packs_per_step": 1, "epochs": 1, "precision": "fp32"}
            ],
        },
        "t",
    )


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    torch.set_num_threads(1)
    return make_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("run"))
    prepare(Line(recipe, run))
    write_parts(run, recipe.source)
    works = [AcquireWork(run, recipe.acquire, source=recipe.source), EmbedWork(run, recipe.select.clip, "cpu")]
    for part in run.parts():
        for work in works:
            work.process(part)
    works[0].close()  # type: ignore[attr-defined]
    write_decisions(run, recipe.select, recipe.feed.holdout, recipe.seed)
    for part in run.parts():
        InstructWork(run, recipe.instruct, recipe.seed).process(part)
        ShardWork(run, recipe.feed, recipe.model).process(part)
    write_plan(run, recipe.train[0], recipe.feed, recipe.seed)
    write_ledger(run)
    return run


def ids_of(run: RunFolder) -> set[str]:
    samples = run.read_table("samples", columns=["sample_id", "text_only"])
    return set(samples.filter(samples["text_only"])["sample_id"].to_pylist())


def test_rows_without_a_picture_are_kept_and_the_law_holds(run: RunFolder) -> None:
    ledger = {row["sample_id"]: row for row in run.read_table("ledger").to_pylist()}
    assert len(ledger) == 26
    texts = [ledger[identity] for identity in ids_of(run)]
    assert len(texts) == 13
    assert [row["reason"] for row in texts if row["state"] == "dropped"] == ["broken_turns"]
    assert all(row["shard"] and row["clip_score"] is None for row in texts if row["state"] == "kept")
    reasons = [row["reason"] for row in ledger.values() if row["state"] == "dropped"]
    assert reasons.count("bad_row") == 1 and reasons.count("clip_score") == 3
    assert sum(run.manifest("embed", part)["counts"]["embedded"] for part in run.parts()) == 12  # type: ignore[index]
    scores = pq.read_table(run.path("scores.parquet")).to_pandas()
    assert scores["shorter_side_px"].count() == scores["clip_score"].count() == 12


def test_shards_hold_their_json_and_no_picture(run: RunFolder) -> None:
    reader, texts = PackReader(run), ids_of(run)
    assert texts & set(reader.sample_ids)
    for number, identity in enumerate(reader.sample_ids):
        sample = reader.read(identity)
        assert sample.sample_id == identity and sample.record == reader.record(number)
        assert (identity in texts) == (sample.jpeg == b"") == (number not in reader.pictured)
        assert {one.text_only for one in sample.conversations} == {identity in texts}
        assert identity not in texts or [one.origin for one in sample.conversations] == ["source"]
    pictures = [key for path in run.path("shards").glob("*.tar") for key, _ in read_members(path, "jpg")]
    assert len(pictures) == len(reader.pictured) == len(reader) - len(texts) + 1


def test_a_conversation_without_a_picture_has_no_picture_tokens(recipe: Recipe) -> None:
    assert recipe.model is not None
    tokenizer = load_tokenizer(recipe.model.language)
    picture = tokenizer.convert_tokens_to_ids("<image>")
    turns = [Turn("Which colour?", "red", "source")]
    shown, told = (encode(Conversation("c", "s", "k", "source", turns, text_only=text), tokenizer, 16)
                   for text in (False, True))  # fmt: skip
    assert shown.input_ids.count(picture) == 16 and picture not in told.input_ids
    learned = [[label for label in one.labels if label != NO_LOSS] for one in (shown, told)]
    assert learned[0] == learned[1] != []
    assert "Which colour?" in tokenizer.decode(told.input_ids) and "<image>" not in tokenizer.decode(told.input_ids)


def test_packs_mix_them_with_pictures_and_each_picture_finds_its_place(run: RunFolder, recipe: Recipe) -> None:
    assert recipe.model is not None
    model, tokenizer = build_model(recipe.model, 1)
    reader, texts = PackReader(run, ["train"]), ids_of(run)
    pieces = list(PiecePlan(pq.read_table(run.path("plan/align.parquet")), 1).pieces())
    collate = LanguageCollate(reader, tokenizer, model.layout)
    mixed = 0
    for piece in pieces:
        batch = collate(piece)
        planned = [row["sample_id"] for pack in piece.packs for row in pack]
        assert batch.samples == [identity for identity in planned if identity not in texts]
        assert (batch.input_ids == model.image_token_id).sum() == len(batch.samples) * model.layout.tile_tokens
        assert (batch.labels != NO_LOSS).sum() == batch.divisor
        mixed += bool(batch.samples) and len(batch.samples) < len(planned)
    assert mixed


@pytest.mark.parametrize("learn", [{"connector"}, {"connector", "language"}])
def test_a_batch_of_texts_alone_has_a_loss_and_teaches_the_language_model_alone(
    run: RunFolder, recipe: Recipe, learn: set[str]
) -> None:
    assert recipe.model is not None
    model, tokenizer = build_model(recipe.model, 1)
    texts = ids_of(run)
    lengths = run.read_table("lengths").to_pylist()
    rows = [row | {"pack": 0} for row in lengths if row["text_only"] and row["split"] == "train"][:2]
    assert rows and all(row["sample_id"] in texts for row in rows)
    piece = Piece(0, True, sum(row["supervised"] for row in rows), [rows])
    batch = LanguageCollate(PackReader(run), tokenizer, model.layout)(piece)
    assert batch.pixel_values is None and batch.samples == []
    loss = LanguageObjective(model, dict.fromkeys(sorted(learn), 1e-3)).loss(batch)
    assert loss.item() > 0 and loss.requires_grad == ("language" in learn)


@pytest.mark.parametrize("cache", [True, False])
def test_training_goes_through_them(run: RunFolder, recipe: Recipe, cache: bool) -> None:
    step = recipe.train[0].model_copy(update={"cache_features": cache})
    StepWork(run, recipe.model, [step], 1).train()
    assert run.manifest("train", "align")["counts"]["steps"] > 1  # type: ignore[index]


def test_features_are_those_of_the_pictures_alone(run: RunFolder, recipe: Recipe) -> None:
    assert recipe.model is not None
    model, _ = build_model(recipe.model, 1)
    reader = PackReader(run, ["train"])
    store = FeatureStore.build(run.local_path("features", "test.npy"), model, reader, "fp32")
    assert len(store.features) == len(reader.pictured) < len(reader)
    for number in reader.pictured:
        identity = reader.sample_ids[number]
        pixels = model.layout.tensor(reader.read(identity).picture)
        assert torch.allclose(store.read([identity]), model.vision(pixels), atol=1e-2)


def test_contrastive_batches_and_held_out_questions_are_about_pictures(run: RunFolder) -> None:
    texts = ids_of(run)
    plan = plan_batches(run.read_table("lengths"), 8, seed=0)
    assert len(plan) and texts.isdisjoint(plan["sample_id"].to_pylist())
    reader = PackReader(run)
    questions = held_out_questions(reader, ["source"], 1000, 0)
    assert questions and texts.isdisjoint(question.sample_id for question in questions)


def test_report_and_trace_tell_of_them(run: RunFolder) -> None:
    assert write_report(run) > 0
    out = Console(file=io.StringIO(), width=200)
    for identity in sorted(ids_of(run)):
        show_trace(run, identity, out)
    told = out.file.getvalue()  # type: ignore[attr-defined]
    assert "kept" in told and "train align" in told and "dropped  by instruct: broken_turns" in told
    assert "clip score" not in told and "shorter_side_px" not in told


def test_llava_json_reads_back_to_the_same_conversations(run: RunFolder, tmp_path: Path) -> None:
    path = export_llava_json(run)
    (tmp_path / "pictures").mkdir()
    for shard in run.path("shards").glob("train-*.tar"):
        for key, jpeg in read_members(shard, "jpg"):
            (tmp_path / "pictures" / f"{key}.jpg").write_bytes(jpeg)
    settings = SourceSettings(table=str(path), pictures=str(tmp_path / "pictures"))
    rows = [row for part in read_source(settings) for row in part.to_pylist()]
    assert all(row["reason"] is None for row in rows)
    assert all(row["text_only"] or Path(row["picture_file"]).exists() for row in rows)
    again = RunFolder(tmp_path / "again")
    write_parts(again, settings)
    ids = [row["sample_id"] for row in rows]
    again.commit("acquire", 0, "k", {"samples/00000.parquet": _kept(ids)[0]}, {})
    again.commit("select", "all", "k", {"decisions.parquet": _kept(ids)[1]}, {})
    InstructWork(again, InstructSettings(kinds={"source": 1}), seed=0).process(0)
    read = [Conversation.from_row(row) for row in again.read_table("conversations", [0]).to_pylist()]
    train = set(PackReader(run, ["train"]).sample_ids)
    first = [Conversation.from_row(row) for row in run.read_table("conversations").to_pylist()]
    first = [one for one in first if one.sample_id in train]
    assert [(one.turns, one.text_only) for one in read] == [(one.turns, one.text_only) for one in first]
    assert any(one.text_only for one in read) and not all(one.text_only for one in read)


def _kept(ids: list[str]) -> tuple[Any, Any]:
    samples = [{"sample_id": identity} for identity in ids]
    decisions = [{"sample_id": identity, "part": 0, "state": "kept"} for identity in ids]
    return pa.Table.from_pylist(samples, SAMPLES), pa.Table.from_pylist(decisions, DECISIONS)
