"""Dedup against what earlier runs kept."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.clip import ClipSettings
from schemas.errors import InputError
from schemas.tables import SAMPLES
from schemas.tables import vectors as vectors_schema
from stages.embed import EmbedWork
from stages.run_folder import RunFolder
from stages.select.decide import write_decisions
from stages.select.settings import SelectSettings

DIM = 16
DEDUP = {"exact": True, "perceptual": {"max_hamming": 6}, "semantic": {"min_cosine": 0.96}}


def _settings(**dedup) -> SelectSettings:
    return SelectSettings.model_validate({"dedup": DEDUP | dedup})


def make_run(folder: Path, seed: int, count: int, cut: int | list[int] | None = None, **changes) -> RunFolder:
    """A run that is acquired and embedded. `changes`: column -> {row: value}; "vector" among them."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, DIM))
    for row, value in changes.pop("vector", {}).items():
        vectors[row] = value
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = []
    for row in range(count):
        hashed = int(rng.integers(0, 1 << 63))
        rows.append(
            {
                "key": f"{row:09d}", "url": f"http://{seed}/{row}", "caption": "a thing", "status": "success",
                "original_width": 100, "original_height": 100, "sha256": f"{seed:032x}{row:032x}",
                "pixels_sha256": f"{seed:032x}{row:032x}", "sample_id": f"{seed:016x}{row:016x}", "row": row,
                "phash": f"{hashed:016x}",
            }
            | {name: values[row] for name, values in changes.items() if row in values}
        )  # fmt: skip
    run = RunFolder(folder)
    work = EmbedWork(run, ClipSettings())
    edges = [0, *([] if cut is None else [cut] if isinstance(cut, int) else cut), count]
    for part, (begin, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        samples = pa.Table.from_pylist(rows[begin:end], SAMPLES)
        captions = pa.array([[caption] for caption in samples["caption"].to_pylist()], pa.list_(pa.string()))
        source = samples.select(["sample_id"]).append_column("captions", captions)
        run.commit("source", part, "k", {f"source/{part:05d}.parquet": source}, {"rows": end - begin})
        run.commit("acquire", part, "k", {f"samples/{part:05d}.parquet": samples}, {})
        schema = vectors_schema(DIM)
        flat = pa.array(vectors[begin:end].astype(np.float16).ravel())
        given = {
            "sample_id": samples["sample_id"],
            "clip_score": pa.array(np.linspace(0.4, 0.3, end - begin), pa.float32()),
            "vector": pa.FixedSizeListArray.from_arrays(flat, DIM),
        }
        columns = [given.get(name, pa.nulls(end - begin, schema.field(name).type)) for name in schema.names]
        table = pa.table(columns, schema=schema)
        run.commit("embed", part, work.key(part), {f"vectors/{part:05d}.parquet": table}, {})
    return run


def _decided(run: RunFolder, settings: SelectSettings) -> list[tuple[str | None, str | None]]:
    write_decisions(run, settings, 0.0, 0)
    table = pq.read_table(run.path("decisions.parquet"))
    return list(zip(table["reason"].to_pylist(), table["duplicate_of"].to_pylist(), strict=True))


def _vector(seed: int, count: int, row: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, DIM))[row]


@pytest.mark.parametrize("cut", [None, 3])
def test_what_comes_in_goes_for_what_was_kept_before(tmp_path: Path, cut: int | None) -> None:
    # In the first run row 5 goes for row 4, so that only row 4 counts afterwards.
    first = make_run(tmp_path / "first", 1, 6, cut, sha256={5: f"{1:032x}{4:032x}"})
    assert [reason for reason, _ in _decided(first, _settings())] == [None] * 5 + ["duplicate_exact"]
    hashes = pa.concat_tables([pq.read_table(path) for path in sorted(first.path("samples").glob("*.parquet"))])
    near = f"{int(hashes['phash'][1].as_py(), 16) ^ 0b101:016x}"
    second = make_run(
        tmp_path / "second", 2, 6,
        sha256={0: f"{1:032x}{4:032x}"}, phash={1: near, 5: hashes["phash"][5].as_py()},
        vector={2: _vector(1, 6, 2) + 0.01, 4: _vector(2, 6, 3) + 0.01},
    )  # fmt: skip
    ids = hashes["sample_id"].to_pylist()
    own = [f"{2:016x}{row:016x}" for row in range(6)]
    expected = [
        ("duplicate_exact", ids[4]), ("duplicate_perceptual", ids[1]), ("duplicate_semantic", ids[2]),
        (None, None), ("duplicate_semantic", own[3]), (None, None),
    ]  # fmt: skip
    for link in ("to_kept", "single"):
        assert _decided(second, _settings(against=[str(first.root)], link=link)) == expected
    assert _decided(second, _settings())[:3] == [(None, None)] * 3


def test_earlier_rows_stay_though_they_are_near_each_other(tmp_path: Path) -> None:
    near = {row: _vector(1, 4, 0) + 0.01 * row for row in range(3)}
    first = make_run(tmp_path / "first", 1, 4, vector=near)
    loose = SelectSettings.model_validate({"dedup": {"exact": False}})
    assert _decided(first, loose) == [(None, None)] * 4
    second = make_run(tmp_path / "second", 2, 2, vector={0: _vector(1, 4, 0) + 0.02})
    assert _decided(second, _settings(against=[str(first.root)])) == [
        ("duplicate_semantic", f"{1:016x}{2:016x}"), (None, None),
    ]  # fmt: skip


def test_a_change_of_the_earlier_run_is_seen(tmp_path: Path) -> None:
    first, second = (
        make_run(tmp_path / "first", 1, 3),
        make_run(tmp_path / "second", 2, 3, sha256={0: f"{1:032x}{0:032x}"}),
    )
    settings = _settings(against=[str(first.root)])
    _decided(first, _settings())
    assert _decided(second, settings)[0][0] == "duplicate_exact"
    _decided(make_run(tmp_path / "first", 7, 3), _settings())
    assert _decided(second, settings)[0][0] is None


def test_an_earlier_run_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "first", 1, 3), make_run(tmp_path / "second", 2, 3)
    settings = _settings(against=[str(first.root)])
    with pytest.raises(InputError, match=r"^select.dedup.against: \S+first has not come through select"):
        write_decisions(second, settings, 0.0, 0)
    _decided(first, _settings())
    other = SelectSettings.model_validate({"clip": {"resize_mode": "longest"}, "dedup": dict(settings.dedup)})
    with pytest.raises(InputError, match="first is not embedded by this run's CLIP model"):
        write_decisions(second, other, 0.0, 0)
    without = SelectSettings.model_validate(
        {"clip": {"resize_mode": "longest"}, "dedup": {"against": [str(first.root)]}}
    )
    assert write_decisions(second, without, 0.0, 0)["kept"] == 3
    _decided(second, _settings())
    with pytest.raises(InputError, match="is this run's own folder"):
        write_decisions(second, _settings(against=[str(second.root)]), 0.0, 0)
