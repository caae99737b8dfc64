"""Parts through a chain of stages on a real Ray: all of them, once each, whatever dies on the way."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest
import ray

from schemas.errors import SluiceError
from stages.graph import PartOutput, PartWork, Place, run_parts
from stages.instruct import InstructSettings
from stages.instruct.place import instruct_place
from stages.run_folder import RunFolder
from tests.stages.instruct.endpoint_server import said, serve
from tests.stages.instruct.test_instruct_work import make_run


class First(PartWork):
    """Writes the part's number; dies or raises once where it is told to."""

    stage = "first"

    def __init__(self, run: RunFolder, dies_at: int | None = None, raises_at: int | None = None) -> None:
        super().__init__(run)
        self.dies_at, self.raises_at = dies_at, raises_at

    def settings(self) -> None:
        return None

    def compute(self, part: int) -> PartOutput:
        if part == self.raises_at:
            raise SluiceError(f"part {part} is bad")
        died = self.run.path("died")
        if part == self.dies_at and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return PartOutput({f"first/{part:05d}.parquet": pa.table({"part": [part]})}, {"rows": 1})


class Second(PartWork):
    """Adds one to what the first stage wrote; waits until another part is under way in the same process."""

    stage = "second"
    upstream = ("first",)

    def __init__(self, run: RunFolder, together: int = 1) -> None:
        super().__init__(run)
        self.meeting = threading.Barrier(together)

    def settings(self) -> None:
        return None

    def compute(self, part: int) -> PartOutput:
        self.meeting.wait(timeout=60)
        number = self.run.read_table("first", [part])["part"][0].as_py()
        return PartOutput({f"second/{part:05d}.parquet": pa.table({"part": [number + 1]})}, {"rows": 1})


@pytest.fixture(autouse=True, scope="module")
def _ray() -> Iterator[None]:
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def test_every_part_passes_every_stage_though_a_process_dies(tmp_path):
    run = RunFolder(tmp_path)
    places = [
        Place(lambda: First(run, dies_at=3), num_cpus=0.5, actors=2),
        Place(lambda: Second(run), num_cpus=0.5),
    ]
    assert sorted(run_parts(places, list(range(6)))) == list(range(6))
    assert run.path("died").exists()
    assert run.read_table("second")["part"].to_pylist() == [1, 2, 3, 4, 5, 6]


class InOrder(PartWork):
    """Notes in which order it is given parts."""

    stage = "in_order"

    def settings(self) -> None:
        return None

    def compute(self, part: int) -> PartOutput:
        with open(self.run.path("order"), "a") as file:
            file.write(f"{part} ")
        return PartOutput({}, {})


class Late(PartWork):
    """Lets part 0 go last."""

    stage = "late"

    def __init__(self, run: RunFolder, parts: int) -> None:
        super().__init__(run)
        self.parts, self.others = parts, threading.Semaphore(0)

    def settings(self) -> None:
        return None

    def compute(self, part: int) -> PartOutput:
        if part > 0:
            self.others.release()
        for _ in range(self.parts - 1 if part == 0 else 0):
            assert self.others.acquire(timeout=60)
        return PartOutput({}, {})


def test_a_place_in_order_begins_no_part_before_the_one_before_it(tmp_path):
    run = RunFolder(tmp_path)
    places = [
        Place(lambda: Late(run, 5), num_cpus=0.5, parts_at_once=5),
        Place(lambda: InOrder(run), num_cpus=0.5, in_order=True),
    ]
    assert list(run_parts(places, list(range(5)))) == list(range(5))
    assert run.path("order").read_text().split() == ["0", "1", "2", "3", "4"]


def test_an_actor_has_as_many_parts_under_way_as_its_place_says(tmp_path):
    run = RunFolder(tmp_path)
    places = [Place(lambda: First(run), num_cpus=0.5), Place(lambda: Second(run, 2), num_cpus=0.5, parts_at_once=2)]
    assert sorted(run_parts(places, list(range(4)))) == [0, 1, 2, 3]


def test_a_stage_s_own_error_reaches_the_caller_and_ends_the_actors(tmp_path):
    run = RunFolder(tmp_path)
    free = ray.cluster_resources()["CPU"]
    with pytest.raises(SluiceError, match="^part 2 is bad$"):
        list(run_parts([Place(lambda: First(run, raises_at=2), num_cpus=1, actors=2)], list(range(4))))
    until = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < free and time.monotonic() < until:
        ray.wait([ray.put(0)])
    assert ray.available_resources()["CPU"] == free


def test_no_parts_start_no_actors(tmp_path):
    assert list(run_parts([Place(lambda: 1 / 0, num_cpus=1)], [])) == []


def test_a_spent_budget_stops_the_run_with_its_message_and_a_higher_one_goes_on_asking_nothing_twice(tmp_path):
    run = make_run(tmp_path / "run", rows=5, dropped=())
    talk = "Question: What is in the picture?\nAnswer: Some things.\nQuestion: What else?\nAnswer: Nothing else."
    with serve(lambda body: said(talk, input_tokens=200)) as server:

        def place(budget: dict[str, int]) -> Place:
            endpoint = {"base_url": server.url, "model": "m", "concurrency": 1, "max_tokens": 50, "budget": budget}
            given = InstructSettings.model_validate({"kinds": {"conversation": 1}, "endpoint": endpoint})
            return instruct_place(run, given, 5, 5)

        with pytest.raises(SluiceError, match="raise instruct.endpoint.budget"):
            list(run_parts([place({"tokens": 1500})], [0]))
        asked = len(server.asked)
        assert 0 < asked < 5
        assert list(run_parts([place({"tokens": 100_000})], [0])) == [0]
        assert len(server.asked) == 5
