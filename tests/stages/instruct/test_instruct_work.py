"""The stage on a part, with a real HTTP endpoint that speaks OpenAI's form and counts what it is asked."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from schemas.conversation import Conversation
from schemas.errors import InputError, SluiceError
from schemas.tables import DECISIONS, SAMPLES, SOURCE
from stages.instruct import EndpointSettings, InstructSettings, InstructWork
from stages.run_folder import RunFolder
from stages.sample.world import scene_of

_TALK = "Question: What is in the picture?\nAnswer: There are some things.\nQuestion: What else?\nAnswer: Nothing else."


class Stub:
    """An endpoint on a free port of the loopback address."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[dict] = []
        self.failures = failures
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.failures:
            self.failures -= 1
            return web.Response(status=500)
        body = await request.json()
        self.asked.append(body)
        message = {"role": "assistant", "content": _TALK}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        return web.json_response(
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        )


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    loop = asyncio.new_event_loop()
    started = threading.Event()

    async def start() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", made.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        made.url = f"http://127.0.0.1:{port}/v1"
        started.set()

    def serve() -> None:
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert started.wait(10)
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def make_run(folder: Path, rows: int = 12, dropped: tuple[int, ...] = (2,)) -> RunFolder:
    """A run folder as it is after `select`, with `rows` scenes in one part."""
    run = RunFolder(folder)
    source, samples, decisions = [], [], []
    for row in range(rows):
        scene = scene_of(31, row)
        identity = f"{row:032x}"
        boxes = [dict(zip("xywh", p.box, strict=True), label=p.name) for p in scene.objects]
        source.append({"sample_id": identity, "row": row, "url": f"http://x/{row}", "caption": scene.captions[0],
                       "captions": scene.captions})  # fmt: skip
        samples.append({"sample_id": identity, "row": row, "key": f"{row:09d}", "original_width": scene.picture.width,
                        "original_height": scene.picture.height, "boxes": boxes})  # fmt: skip
        decisions.append({"sample_id": identity, "row": row, "part": 0, "split": "train",
                          "state": "dropped" if row in dropped else "kept"})  # fmt: skip
    run.commit("source", 0, "k", {"source/00000.parquet": pa.Table.from_pylist(source, SOURCE)}, {"rows": rows})
    run.commit("acquire", 0, "k", {"samples/00000.parquet": pa.Table.from_pylist(samples, SAMPLES)}, {})
    run.commit("select", "all", "k", {"decisions.parquet": pa.Table.from_pylist(decisions, DECISIONS)}, {})
    return run


def _settings(stub: Stub | None = None, **kinds: float) -> InstructSettings:
    endpoint = EndpointSettings(base_url=stub.url, model="m", concurrency=4) if stub else None
    return InstructSettings(kinds=kinds, endpoint=endpoint)


def _said(run: RunFolder) -> list[Conversation]:
    rows = pq.read_table(run.path("conversations/00000.parquet")).to_pylist()
    return [Conversation.from_row(row) for row in rows]


def test_templates_make_one_joined_conversation_and_a_caption_for_each_kept_row(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    counts = InstructWork(run, _settings(caption=1, count=1, presence=1, position=1), seed=5).process(0)
    said = _said(run)
    assert counts["template"] == counts["caption"] == 11
    assert {one.sample_id for one in said} == {f"{row:032x}" for row in range(12) if row != 2}
    joined = [one for one in said if one.kind == "template"]
    assert all({turn.kind for turn in one.turns} >= {"count", "presence"} for one in joined)
    assert all(one.origin == "template" and one.model is None for one in said)


def test_the_same_seed_says_the_same_and_another_seed_does_not(tmp_path: Path) -> None:
    bytes_of = {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run = make_run(tmp_path / name)
        InstructWork(run, _settings(caption=1, count=1, presence=1), seed).process(0)
        bytes_of[name] = run.path("conversations/00000.parquet").read_bytes()
    assert bytes_of["a"] == bytes_of["b"] != bytes_of["c"]


def test_rows_of_which_nothing_can_be_made_are_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    counts = InstructWork(run, _settings(caption=0.0001), seed=5).process(0)
    assert counts["no_conversation"] == 11
    assert _said(run) == []


def test_the_endpoint_is_asked_once_for_each_request_over_runs(tmp_path: Path, stub: Stub) -> None:
    for name in ("a", "b"):
        run = make_run(tmp_path / name)
        counts = InstructWork(run, _settings(stub, conversation=1), seed=5).process(0)
        assert counts["conversation"] == 11
        assert all(len(one.turns) == 2 and one.origin == "endpoint" and one.model == "m" for one in _said(run))
    assert len(stub.asked) == 11
    assert stub.asked[0]["temperature"] == 0
    assert (tmp_path / "a/conversations/00000.parquet").read_bytes() == run.path(
        "conversations/00000.parquet"
    ).read_bytes()


def test_passing_errors_of_the_endpoint_are_tried_again(tmp_path: Path, stub: Stub) -> None:
    stub.failures = 3
    run = make_run(tmp_path / "run", rows=4)
    assert InstructWork(run, _settings(stub, conversation=1), seed=5).process(0)["conversation"] == 3


def test_an_endpoint_that_is_not_there_fails_the_run_and_keeps_what_was_answered(tmp_path: Path, stub: Stub) -> None:
    gone = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m", retries=0, timeout_s=5)
    run = make_run(tmp_path / "run", rows=4)
    work = InstructWork(run, InstructSettings(kinds={"conversation": 1}, endpoint=gone), seed=5)
    with pytest.raises(SluiceError, match=r"127\.0\.0\.1:9.*start the run again"):
        work.process(0)
    assert not run.path("conversations/00000.parquet").exists()


def test_answers_that_cannot_be_used_are_counted_by_reason(tmp_path: Path, stub: Stub) -> None:
    run = make_run(tmp_path / "run", rows=4)
    counts = InstructWork(run, _settings(stub, detail=1), seed=5).process(0)
    assert counts.get("detail", 0) + counts.get("rejected_repetition", 0) == 3 or counts["detail"] == 3


def test_the_key_comes_from_the_environment_and_stands_nowhere(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = InstructSettings(
        kinds={"conversation": 1},
        endpoint=EndpointSettings(base_url=stub.url, model="m", api_key_env="SLUICE_TEST_KEY"),
    )
    run = make_run(tmp_path / "runs" / "run", rows=4)
    with pytest.raises(InputError, match="SLUICE_TEST_KEY is not set"):
        InstructWork(run, settings, seed=5)
    monkeypatch.setenv("SLUICE_TEST_KEY", "s3cret-value")
    InstructWork(run, settings, seed=5).process(0)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert b"s3cret-value" not in path.read_bytes()


def test_llava_json_has_the_picture_once_before_the_first_question(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", rows=4)
    InstructWork(run, _settings(count=1, presence=1), seed=5).process(0)
    record = json.loads(json.dumps(_said(run)[0].to_llava("a.jpg")))
    assert record["conversations"][0]["value"].startswith("<image>\n")
    assert sum("<image>" in said["value"] for said in record["conversations"]) == 1
    assert [said["from"] for said in record["conversations"]] == ["human", "gpt"] * (len(record["conversations"]) // 2)
