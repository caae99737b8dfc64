"""Embedding the parts of a run."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from models.clip import ClipSettings, load_clip
from schemas.errors import SluiceError
from schemas.tables import SAMPLES, vectors
from stages.embed import EmbedWork
from stages.run_folder import RunFolder
from stages.tar import tar_bytes

CLIP = ClipSettings(model="sluice-filter-64", pretrained="none", batch_size=2)


def _jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def _acquired(run: RunFolder, part: int, reasons: list[str | None], pictures: dict[str, bytes] | None = None) -> None:
    rows = [
        {"key": f"{part:05d}{row:04d}", "sample_id": f"id-{part}-{row}", "caption": f"thing {row}", "reason": reason}
        for row, reason in enumerate(reasons)
    ]
    found = {row["key"]: _jpeg(place) for place, row in enumerate(rows) if row["reason"] is None}
    members = [
        (f"{key}.{end}", data)
        for key, jpg in (pictures or found).items()
        for end, data in (("jpg", jpg), ("txt", b"-"))
    ]
    table = pa.Table.from_pylist(rows, SAMPLES)
    outputs = {f"samples/{part:05d}.tar": tar_bytes(members)[0], f"samples/{part:05d}.parquet": table}
    run.commit("acquire", part, "k", outputs, {})


def test_each_picture_gets_its_vector_and_score(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, [None, "timeout", None, None])
    work = EmbedWork(run, CLIP, device="cpu")
    assert work.process(0) == {"embedded": 3}
    assert work.done(0)
    table = pq.read_table(run.table_path("vectors", 0))
    assert table.schema.equals(vectors(256))
    assert table["sample_id"].to_pylist() == ["id-0-0", "id-0-2", "id-0-3"]

    clip = load_clip(CLIP.model, CLIP.pretrained)
    seen = clip.encode_pictures([_jpeg(row) for row in (0, 2, 3)], 2)
    said = clip.encode_texts(["thing 0", "thing 2", "thing 3"], 2)
    np.testing.assert_allclose(table["clip_score"].to_numpy(), (seen * said).sum(axis=1), atol=1e-6)
    stored = np.array(table["vector"].to_pylist(), np.float32)
    np.testing.assert_allclose(stored, seen, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-3)


def test_the_same_part_gives_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        run = RunFolder(tmp_path / name)
        _acquired(run, 3, [None] * 5)
        EmbedWork(run, CLIP, device="cpu").process(3)
        digests.append(run.output_digest("embed", 3))
    assert digests[0] is not None
    assert digests[0] == digests[1]


def test_a_part_without_pictures_is_committed_empty(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, ["timeout", "bad_row"])
    assert EmbedWork(run, CLIP, device="cpu").process(0) == {"embedded": 0}
    assert pq.read_table(run.table_path("vectors", 0)).schema.equals(vectors(256))


def test_new_pictures_or_another_model_make_the_work_undone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, [None])
    EmbedWork(run, CLIP, device="cpu").process(0)
    assert EmbedWork(run, CLIP.model_copy(update={"actors": 3}), device="cpu").done(0)
    assert not EmbedWork(run, CLIP.model_copy(update={"precision": "bf16"}), device="cpu").done(0)
    _acquired(run, 0, [None, None])
    assert not EmbedWork(run, CLIP, device="cpu").done(0)


def test_a_tar_that_lacks_a_picture_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, [None, None], {"000000000": _jpeg(0)})
    with pytest.raises(SluiceError, match="00000.tar lacks the picture of sample 000000001"):
        EmbedWork(run, CLIP, device="cpu").process(0)
