"""The run folder on a disk and in an object store: what is committed is whole, and both hold the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from s3fs import S3FileSystem

from schemas.errors import InputError, SluiceError
from stages.feed import PackReader
from stages.instruct.endpoint import Answer
from stages.instruct.settings import EndpointSettings, InstructSettings
from stages.instruct.work import InstructWork
from stages.run_folder import RunFolder
from stages.store import fetched, local_folder, remove_folder, write_atomically
from stages.tar import read_members
from stages.train.checkpoint import CheckpointFolder
from stages.train.logs import StepLog, read_log
from stages.train.loop import Progress
from tests.s3_store import KEY, SECRET, found_s3
from tests.stages.feed.tiny_run import feed_all, make_model, make_run

TABLE = pa.table({"sample_id": ["a", "b"], "row": [0, 1], "note": ["x", None]})


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The local folder behind an S3 endpoint that this process's S3 clients find; `bucket` is in it."""
    folder = tmp_path_factory.mktemp("s3")
    with found_s3(folder) as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield folder


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, buckets: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run" if request.param == "local" else f"s3://bucket/{request.node.originalname}")


def test_what_is_committed_is_read_again(run: RunFolder) -> None:
    moved = run.local_path("big.tmp")
    moved.parent.mkdir(parents=True, exist_ok=True)
    moved.write_bytes(b"large")
    outputs = {"source/00002.parquet": TABLE, "notes/a.txt": b"text", "checkpoints/x/final": moved}
    run.commit("source", 2, "key", outputs, {"rows": 2})
    assert run.parts() == [2]
    assert run.read_table("source").equals(TABLE)
    assert run.read_table("source", [2], ["row"]).equals(TABLE.select(["row"]))
    assert run.path("notes", "a.txt").read_bytes() == b"text"
    assert run.path("checkpoints", "x", "final").read_bytes() == b"large" and not moved.exists()
    assert run.is_done("source", 2, "key")
    assert not run.is_done("source", 2, "another key")
    run.path("notes", "a.txt").unlink()
    assert not run.is_done("source", 2, "key")


def test_what_is_not_there_is_none(run: RunFolder) -> None:
    assert run.parts() == []
    assert run.manifest("source", 0) is None
    assert run.output_digest("source", 0) is None
    with pytest.raises(SluiceError, match="run the stages before"):
        run.read_table("source")


def test_a_broken_manifest_is_none(run: RunFolder) -> None:
    write_atomically(run.path("manifests", "source", "00000.json"), b'{"key": ')
    assert run.manifest("source", 0) is None


def test_it_travels_to_another_process(run: RunFolder) -> None:
    run.commit("source", 0, "key", {"source/00000.parquet": TABLE}, {})
    there = pickle.loads(pickle.dumps(run))
    assert there == run
    assert there.read_table("source").equals(TABLE)


def test_what_others_write_is_seen_at_once(buckets: Path) -> None:
    run = RunFolder("s3://bucket/shared")
    run.commit("source", 0, "key", {"source/00000.parquet": TABLE}, {})
    assert run.parts() == [0]
    other = S3FileSystem(skip_instance_cache=True)
    other.pipe_file("bucket/shared/source/00001.parquet", run.table_path("source", 0).read_bytes())
    assert run.parts() == [0, 1]


def test_an_address_that_went_through_a_path_is_found(buckets: Path) -> None:
    assert str(RunFolder(Path("s3://bucket/run/a")).path("b")) == "s3://bucket/run/a/b"
    assert RunFolder(Path("s3://bucket/run")) == RunFolder("s3://bucket/run")


def test_a_local_folder_stays_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", Path("run"), tmp_path / "run", f"file://{tmp_path}/run"):
        run = RunFolder(name)
        assert run.root == tmp_path / "run" and run.is_local
        assert run.local_path("features") == run.path("features")


@pytest.mark.parametrize("name", ["gopher://bucket/run", Path("gopher://bucket/run")])
def test_an_unknown_store_is_refused(name: str | Path) -> None:
    with pytest.raises(InputError, match="gopher://bucket/run cannot be opened"):
        RunFolder(name)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="environment") as refused:
        RunFolder(f"s3://{KEY}:{SECRET}@bucket/run")
    assert SECRET not in str(refused.value)


def test_an_address_with_a_wildcard_is_refused() -> None:
    with pytest.raises(InputError, match=r"s3://bucket/run\[1\]"):
        RunFolder("s3://bucket/run[1]")


def test_a_store_that_takes_nothing_is_told_with_what_to_do(buckets: Path) -> None:
    run = RunFolder("s3://no-such-bucket/run")
    with pytest.raises(SluiceError, match=r"cannot write s3://no-such-bucket/run/source/0.*bucket") as failed:
        run.commit("source", 0, "key", {"source/00000.parquet": TABLE}, {})
    assert SECRET not in str(failed.value)
    assert not (buckets / "no-such-bucket").exists()


def test_a_folder_is_put_with_its_last_file_last(buckets: Path) -> None:
    path = RunFolder("s3://bucket/folders").path("model")
    for name in ("old", "new"):
        with local_folder(path, last="a.json") as folder:
            folder.mkdir()
            for file in ("a.json", f"{name}.bin", "z.bin"):
                (folder / file).write_text(name)
        assert not folder.exists()
    behind = buckets / "bucket/folders/model"
    assert {file.name for file in behind.iterdir()} == {"a.json", "new.bin", "z.bin"}
    assert max(behind.iterdir(), key=lambda file: file.stat().st_mtime_ns).name == "a.json"
    with fetched(path / "z.bin") as file:
        assert file.read_text() == "new"
    assert not file.exists()
    for _ in range(2):
        remove_folder(path, "a.json")
        assert not any(path.glob("*"))


def test_nothing_is_put_where_the_making_failed(buckets: Path) -> None:
    path = RunFolder("s3://bucket/failed").path("model")

    def fail() -> None:
        with local_folder(path, last="a") as folder:
            folder.mkdir()
            (folder / "a").write_text("half")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert not any(path.glob("*"))


class _Objective:
    """One weight that learns."""

    sharded = False

    def __init__(self, value: float) -> None:
        self.weight = torch.nn.Parameter(torch.full((2, 3), value))
        self.parts = {"connector": torch.nn.ParameterDict({"weight": self.weight})}

    def parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"connector": {"weight": self.weight}}


def _saved(folder: CheckpointFolder, steps: list[int]) -> None:
    for step in steps:
        objective = _Objective(float(step))
        optimizer = torch.optim.AdamW([objective.weight])
        objective.weight.sum().backward()
        optimizer.step()
        folder.save(objective, optimizer, Progress(step=step, loss=step / 2))  # type: ignore[arg-type]
    folder.wait()


def test_a_checkpoint_is_resumed_from_and_the_last_two_are_kept(run: RunFolder) -> None:
    states = CheckpointFolder(run.path("checkpoints", "align", "state"), "key")
    _saved(states, [1, 2, 3])
    assert [state.name for state in states.states()] == ["00000002", "00000003"]
    write_atomically(states.path / "00000004" / "weights.safetensors", b"half")  # killed while it was put
    objective = _Objective(0.0)
    optimizer = torch.optim.AdamW([objective.weight])
    assert states.resume(objective, optimizer) == Progress(step=3, loss=1.5)  # type: ignore[arg-type]
    assert objective.weight[0, 0].item() == pytest.approx(3, abs=0.1)
    assert optimizer.state_dict()["state"][0]["step"] == 1
    other = CheckpointFolder(states.path, "another key")
    assert other.resume(objective, optimizer) == Progress()  # type: ignore[arg-type]
    other.clear_others()
    assert other.states() == []


def test_a_log_is_cut_at_the_resumed_step_and_goes_on(run: RunFolder) -> None:
    same = {"loss": 1.0, "gradient": 1.0, "tokens_per_s": 1.0, "filled": 1.0, "lr": {"connector": 0.1}}
    for after, steps in ((0, [1, 2, 3]), (2, [3, 4])):
        log = StepLog(run, "align", after)
        for step in steps:
            log.write({"step": step, **same})
        log.close()
    assert [line["step"] for line in read_log(log.path)] == [1, 2, 3, 4]
    assert len(list(run.path("tensorboard", "align").glob("events*"))) == 2


def test_answers_of_an_endpoint_are_kept_beside_the_run(run: RunFolder) -> None:
    endpoint = EndpointSettings(base_url="http://127.0.0.1:9/v1", model="m")
    work = InstructWork(run, InstructSettings(kinds={"detail": 1.0}, endpoint=endpoint), seed=0)
    assert work.endpoint is not None
    store = work.endpoint.store
    assert store.folder == run.root.parent / "answers"
    store.put_all({"abc": Answer("größer", 3, 2)})
    assert [path.suffix for path in store.folder.iterdir()] == [".jsonl"]


def test_a_store_holds_the_same_shards_as_a_disk_and_reads_them_alike(buckets: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "tokenizer")
    local, remote = make_run(tmp_path / "run"), make_run("s3://bucket/tiny")  # type: ignore[arg-type]
    for run in (local, remote):
        feed_all(run, model)
    behind = buckets / "bucket/tiny"
    names = sorted(str(path.relative_to(local.root)) for path in local.root.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(behind)) for path in behind.rglob("*") if path.is_file())
    assert any(name.startswith("shards/") for name in names)
    for name in names:
        assert (behind / name).read_bytes() == (local.root / name).read_bytes(), name
    here, there = PackReader(local), PackReader(remote)
    assert here.sample_ids == there.sample_ids
    for number in range(len(here)):
        assert there.read(number) == here.read(number)
        assert there.record(number) == here.record(number)
        assert there.jpeg(number) == here.jpeg(number)
    assert there.map(there.read, there.sample_ids) == here.map(here.read, here.sample_ids)
    path = remote.path("shards", "train-000000.tar")
    assert list(read_members(path, "jpg")) == list(read_members(local.path("shards", path.name), "jpg"))
    path.unlink()
    with pytest.raises(SluiceError, match="run the feed stage again"):
        there.read(there.index["shard"].to_pylist().index(path.name))
    with pytest.raises(SluiceError, match="cannot read s3://"):
        list(read_members(path, "jpg"))
