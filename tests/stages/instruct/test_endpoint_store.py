"""The store of answers on an object store, and how many parts keep the endpoint full."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.instruct import InstructSettings, instruct_place
from stages.instruct.endpoint import Answer, AnswerStore, Endpoint, EndpointSettings
from stages.run_folder import RunFolder
from stages.store import open_path
from tests.s3_store import found_s3
from tests.stages.instruct.endpoint_server import echo, serve


def test_answers_are_kept_in_an_object_store(tmp_path: Path) -> None:
    with found_s3(tmp_path), serve(echo) as server:
        settings = EndpointSettings(base_url=server.url, model="m")
        folder = open_path("s3://bucket/answers")
        requests = [("v-1", [{"role": "user", "content": f"größer {number}"}]) for number in range(20)]
        told = Endpoint(settings, AnswerStore(folder, "a")).answer_all(requests)
        assert told[3] == Answer('"gr\\u00f6\\u00dfer 3"', 10, 5)
        assert 1 <= len(list((tmp_path / "bucket/answers").iterdir())) <= 20
        other = AnswerStore(folder, "b")
        assert Endpoint(settings, other).answer_all(requests) == told
        assert len(server.asked) == 20
        assert other.spent().requests == 0
        again = AnswerStore(folder, "a")
        again.refresh()
        again.refresh()
        assert (again.spent().requests, again.spent().tokens) == (20, 300)


@pytest.mark.parametrize(("concurrency", "rows", "parts"), [(64, 1000, 2), (64, 40, 5), (4096, 10, 32)])
def test_so_many_parts_are_under_way_that_the_endpoint_stays_full(
    tmp_path: Path, concurrency: int, rows: int, parts: int
) -> None:
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m", concurrency=concurrency)
    settings = InstructSettings(kinds={"caption": 1.0, "detail": 0.2, "reasoning": 0.2}, endpoint=endpoint)
    place = instruct_place(RunFolder(tmp_path), settings, 0, rows)
    assert (place.actors, place.parts_at_once, place.num_gpus) == (1, parts, 0)
    templates = InstructSettings(kinds={"caption": 1.0}, endpoint=endpoint)
    assert instruct_place(RunFolder(tmp_path), templates, 0, rows).parts_at_once == 1
