"""Conversations longer than a pack: dropped with the reason, or cut between turns, each piece with its picture."""

import models.compat  # noqa: F401

# isort: split
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.chat import NO_LOSS
from models.full import picture_layout
from models.language import load_tokenizer
from schemas.conversation import Conversation, Turn
from schemas.tables import CONVERSATIONS
from stages.evaluate import _train_turns
from stages.feed import PackReader, plan_packs
from stages.feed.batches import LanguageCollate, PiecePlan
from stages.feed.split import split_turns, whole_id
from stages.ledger import funnel, write_ledger
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run

PICTURE = 7
SPLIT = FEED.model_copy(update={"too_long": "split"})


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(8, 60))
def test_pieces_hold_the_turns_in_order_and_each_the_picture_again(turns, room):
    conversation = Conversation("s-0", "s", "k", "o", [Turn(f"{n}", "a" * size, "k") for n, size in enumerate(turns)])

    def measure(one):
        said = sum(len(turn.answer) for turn in one.turns)
        return PICTURE + said, said

    pieces = split_turns(conversation, room, measure)
    kept = [turn for piece, _, _ in pieces for turn in piece.turns]
    assert kept == [turn for turn in conversation.turns if PICTURE + len(turn.answer) <= room]
    for number, (piece, tokens, learned) in enumerate(pieces):
        assert (tokens, learned) == measure(piece) and tokens <= room
        assert piece.conversation_id == f"s-0.{number}" and whole_id(piece.conversation_id) == "s-0"
        assert (piece.sample_id, piece.kind, piece.text_only) == ("s", "k", False)
    for (piece, tokens, _), (following, _, _) in zip(pieces, pieces[1:], strict=False):
        assert tokens + len(following.turns[0].answer) > room or piece.turns[-1].question != str(
            int(following.turns[0].question) - 1
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    return make_model(tmp_path_factory.mktemp("tokenizer"))


def _run(root, model, feed):
    """Row 3 of part 0 has a long conversation of short turns and one long turn; row 5 one long turn alone."""
    run = make_run(root)
    ids = [row["sample_id"] for row in pq.read_table(run.table_path("source", 0)).to_pylist()]
    long = Turn("Say " + "very " * 600, "red", "detail")
    short = [Turn(f"Which colour has number {number}?", "very very red", "colour") for number in range(30)]
    said = [
        row for row in pq.read_table(run.table_path("conversations", 0)).to_pylist()
        if row["sample_id"] not in (ids[3], ids[5])
    ]  # fmt: skip
    said.append(Conversation(f"{ids[3]}-0", ids[3], "template", "template", [*short[:9], long, *short[9:]]).to_row())
    said.append(Conversation(f"{ids[5]}-0", ids[5], "template", "template", [long]).to_row())
    table = pa.Table.from_pylist(said, CONVERSATIONS)
    run.commit("instruct", 0, "split", {"conversations/00000.parquet": table}, {})
    feed_all(run, model, feed)
    return run, ids


def test_split_keeps_what_fits_and_the_ledger_tells_of_the_rest(model, tmp_path):
    run, ids = _run(tmp_path, model, SPLIT)
    rows = [row for row in run.read_table("lengths").to_pylist() if row["sample_id"] == ids[3]]
    assert [row["conversation_id"] for row in rows] == [f"{ids[3]}-0.{number}" for number in range(len(rows))]
    assert len(rows) > 1 and max(row["length"] for row in rows) <= SPLIT.tokens_per_pack
    said = PackReader(run, ["train"]).read(ids[3]).conversations
    assert sum(len(one.turns) for one in said) == 30
    assert run.manifest("feed", 0)["counts"]["too_long_turns"] == 1
    assert sum(kind == "colour" for kind, _ in _train_turns(run, ["colour"])) >= 30
    write_ledger(run)
    ledger = {row["sample_id"]: row for row in run.read_table("ledger").to_pylist()}
    assert ledger[ids[3]]["state"] == "kept"
    assert (ledger[ids[5]]["state"], ledger[ids[5]]["reason"]) == ("dropped", "too_long")
    assert {"stage": "feed", "reason": "too_long", "rows": 1, "left": 21} in funnel(run)


def test_every_piece_stands_in_batches_with_the_whole_picture(model, tmp_path):
    run, ids = _run(tmp_path, model, SPLIT)
    plan = plan_packs(run.read_table("lengths"), SPLIT.tokens_per_pack, 0)
    tokenizer = load_tokenizer(model.language)
    collate = LanguageCollate(PackReader(run, ["train"]), tokenizer, picture_layout(model), pixels=False)
    shown, tokens, learned = [], 0, 0
    for piece in PiecePlan(plan, 4).pieces():
        batch = collate(piece)
        shown += batch.samples
        tokens += int((batch.input_ids == tokenizer.convert_tokens_to_ids("<image>")).sum())
        learned += int((batch.labels != NO_LOSS).sum())
    pieces = sum(row["sample_id"] == ids[3] for row in plan.to_pylist())
    assert shown.count(ids[3]) == pieces > 1
    assert tokens == len(shown) * picture_layout(model).tile_tokens
    assert learned == sum(plan["supervised"].to_pylist())


def test_drop_is_the_default_and_drops_the_whole_conversation(model, tmp_path):
    run, ids = _run(tmp_path, model, FEED)
    write_ledger(run)
    ledger = {row["sample_id"]: row for row in run.read_table("ledger").to_pylist()}
    assert {ledger[ids[3]]["reason"], ledger[ids[5]]["reason"]} == {"too_long"}
    manifest = json.loads(run.path("manifests/feed/00000.json").read_text())
    assert manifest["counts"] == {"train": 7, "val": 2, "too_long": 2}
