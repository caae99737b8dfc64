"""Conversations that the source holds: taken in as they are where they are whole, refused with a reason where not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.conversation import Conversation, Turn
from schemas.tables import DECISIONS, REJECTED, SAMPLES, SOURCE
from schemas.vocabulary import Reason
from stages.instruct import InstructSettings, InstructWork
from stages.instruct.context import Context
from stages.instruct.kinds import Rejected
from stages.instruct.kinds.source import Source
from stages.run_folder import RunFolder

TALK = [("human", "<image>\nWhat is it?"), ("gpt", "A cat."), ("human", "Where?"), ("gpt", "On a mat.")]


def as_json(said: list[tuple[str, str]]) -> str:
    return json.dumps([{"from": speaker, "value": value} for speaker, value in said])


def turns_of(said: list[tuple[str, str]], text_only: bool = False) -> list[tuple[str, str]]:
    turns = Source().turns(Context("id", [], conversation=as_json(said), text_only=text_only))
    assert all(turn.kind == "source" for turn in turns)
    return [(turn.question, turn.answer) for turn in turns]


@pytest.mark.parametrize(
    "first", ["<image>\nWhat is it?", "What is it?\n<image>", "What is it?", "<image> What is it?"]
)
def test_the_pictures_place_is_before_the_first_question_however_it_was_said(first: str) -> None:
    assert turns_of([("human", first), *TALK[1:]]) == [("What is it?", "A cat."), ("Where?", "On a mat.")]


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ([], "no questions and answers in turn"),
        (TALK[:3], "no questions and answers in turn: human, gpt, human"),
        (TALK[1:3], "no questions and answers in turn: gpt, human"),
        ([("system", "Be kind."), *TALK[:2]], "in turn: system"),
        ([TALK[0], TALK[0], TALK[1]], "in turn: human, human, gpt"),
        ([("human", "<image>\n "), TALK[1]], "an empty question or answer"),
        ([TALK[0], ("gpt", " ")], "an empty question or answer"),
        ([TALK[0], TALK[1], ("human", "<image>\nAnd here?"), TALK[3]], "the picture stands elsewhere"),
        ([("human", "<image><image>\nCompare."), TALK[1]], "the picture stands elsewhere"),
        ([("human", "What?"), ("gpt", "It is <image>.")], "the picture stands elsewhere"),
    ],
)
def test_broken_conversations_are_refused(said: list[tuple[str, str]], detail: str) -> None:
    with pytest.raises(Rejected, match=detail) as refused:
        turns_of(said)
    assert refused.value.reason == Reason.BROKEN_TURNS


def test_a_text_only_conversation_shows_no_picture() -> None:
    assert turns_of([("human", "Two and two?"), ("gpt", "Four.")], text_only=True) == [("Two and two?", "Four.")]
    with pytest.raises(Rejected, match="it shows a picture, and there is none"):
        turns_of(TALK, text_only=True)


_TEXT = st.text(min_size=1, max_size=30).map(str.strip).filter(lambda text: text and "<image>" not in text)
_TURN = st.builds(Turn, _TEXT, _TEXT, st.sampled_from(["source", "count", "clock"]))


@given(st.lists(_TURN, min_size=1, max_size=4), st.booleans())
def test_what_llava_json_says_is_read_back(turns: list[Turn], text_only: bool) -> None:
    record = Conversation("id-0", "id", "k", "template", turns, text_only=text_only).to_llava("a.jpg")
    assert ("image" in record) != text_only
    assert sum("<image>" in said["value"] for said in record["conversations"]) == (not text_only)
    context = Context("id", [], conversation=json.dumps(record["conversations"]), text_only=text_only)
    assert Source().turns(context) == turns


def make_run(root: Path, rows: list[dict[str, Any]]) -> RunFolder:
    run = RunFolder(root)
    for number, row in enumerate(rows):
        row |= {"sample_id": f"{number:032x}", "row": number, "part": 0, "state": "kept", "split": "train"}
        row |= {"captions": [row["caption"]], "original_width": 10, "original_height": 10}
    tables = {
        "source": ("source/00000.parquet", SOURCE),
        "acquire": ("samples/00000.parquet", SAMPLES),
        "select": ("decisions.parquet", DECISIONS),
    }
    for stage, (name, schema) in tables.items():
        run.commit(stage, "all" if stage == "select" else 0, "k", {name: pa.Table.from_pylist(rows, schema)}, {})
    return run


def test_the_stage_takes_them_in_beside_its_own_and_says_what_it_refused(tmp_path: Path) -> None:
    clock = [{"from": "human", "value": "<image>\nTime?"}, {"from": "gpt", "value": "3:05", "kind": "clock"}]
    run = make_run(
        tmp_path,
        [
            {"caption": "A cat.", "conversation": as_json(TALK)},
            {"caption": "broken", "conversation": as_json(TALK[:1])},
            {"caption": "Four.", "conversation": as_json([("human", "2 + 2?"), ("gpt", "Four.")]), "text_only": True},
            {"caption": "text", "conversation": as_json(TALK[1:]), "text_only": True},
            {"caption": "no talk", "conversation": None},
            {"caption": "3:05", "conversation": json.dumps(clock)},
        ],
    )
    counts = InstructWork(run, InstructSettings(kinds={"source": 1, "caption": 1}), seed=1).process(0)
    rows = run.read_table("conversations", [0]).to_pylist()
    said = [Conversation.from_row(row) for row in rows]
    taken = [(one.sample_id[-1], one.kind, one.text_only) for one in said if one.origin == "source"]
    assert taken == [("0", "source", False), ("2", "source", True), ("5", "clock", False)]
    assert [one.sample_id[-1] for one in said if one.kind == "caption"] == ["0", "1", "4", "5"]
    assert counts == {"source": 2, "clock": 1, "caption": 4, "rejected_broken_turns": 2, "broken_turns": 1}
    rejected = run.read_table("rejected", [0])
    assert rejected.schema == REJECTED
    assert [(row["sample_id"][-1], row["reason"], row["scope"]) for row in rejected.to_pylist()] == [
        ("1", "broken_turns", "conversation"), ("3", "broken_turns", "conversation")]  # fmt: skip
    assert run.read_table("unsaid", [0]).to_pylist() == [{"sample_id": f"{3:032x}", "reason": "broken_turns"}]


def test_a_share_of_them_is_taken(tmp_path: Path) -> None:
    run = make_run(tmp_path, [{"caption": f"c{n}", "conversation": as_json(TALK)} for n in range(200)])
    counts = InstructWork(run, InstructSettings(kinds={"source": 0.3}), seed=1).process(0)
    assert 40 <= counts["source"] <= 80
    assert counts["source"] + counts["no_conversation"] == 200
