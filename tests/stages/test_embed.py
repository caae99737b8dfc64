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
from stages.embed import EmbedWork, embed_stage, vectors_folder
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


def test_pictures_that_did_not_change_keep_their_vectors(tmp_path: Path) -> None:
    run, whole = RunFolder(tmp_path / "retried"), RunFolder(tmp_path / "whole")
    _acquired(run, 0, [None, "timeout", None])
    EmbedWork(run, CLIP, device="cpu").process(0)
    path = run.table_path("vectors", 0)
    marked = pq.read_table(path)
    marked = marked.set_column(1, marked.schema.field("clip_score"), [pa.array([9.0, 8.0], pa.float32())])
    pq.write_table(marked, path)

    _acquired(run, 0, [None, None, None], {f"00000000{row}": _jpeg(seed) for row, seed in enumerate((0, 1, 7))})
    assert EmbedWork(run, CLIP, device="cpu").process(0) == {"embedded": 3}
    table = pq.read_table(path)
    assert table["sample_id"].to_pylist() == ["id-0-0", "id-0-1", "id-0-2"]
    kept = [score > 1 for score in table["clip_score"].to_pylist()]
    assert kept == [True, False, False]  # the second came late, the third is another picture now
    assert len(set(table["made_from"].to_pylist())) == 3

    _acquired(whole, 0, [None] * 3, {f"00000000{row}": _jpeg(seed) for row, seed in enumerate((0, 1, 7))})
    EmbedWork(whole, CLIP, device="cpu").process(0)
    embedded_at_once = pq.read_table(whole.table_path("vectors", 0))
    assert table.drop_columns("clip_score").equals(embedded_at_once.drop_columns("clip_score"))
    assert table["clip_score"][1:] == embedded_at_once["clip_score"][1:]


def test_other_settings_captions_or_a_broken_file_take_nothing_over(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, [None, None])
    EmbedWork(run, CLIP, device="cpu").process(0)
    first = pq.read_table(run.table_path("vectors", 0))
    EmbedWork(run, CLIP.model_copy(update={"batch_size": 3}), device="cpu").process(0)
    second = pq.read_table(run.table_path("vectors", 0))
    assert set(first["made_from"].to_pylist()).isdisjoint(second["made_from"].to_pylist())
    run.table_path("vectors", 0).write_bytes(b"PAR1 no table")
    run.path("manifests", "embed", "00000.json").unlink()
    EmbedWork(run, CLIP, device="cpu").process(0)
    assert pq.read_table(run.table_path("vectors", 0)).equals(first)


def test_a_further_model_has_vectors_and_manifests_of_its_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    _acquired(run, 0, [None, "timeout"])
    EmbedWork(run, CLIP, device="cpu").process(0)
    squeezed = EmbedWork(run, CLIP.model_copy(update={"resize_mode": "longest"}), device="cpu", name="padded")
    assert not squeezed.done(0)
    assert squeezed.process(0) == {"embedded": 1}
    assert squeezed.done(0)
    assert EmbedWork(run, CLIP, device="cpu").done(0)
    one, other = (run.read_table(vectors_folder(name), [0]) for name in ("", "padded"))
    assert one["sample_id"] == other["sample_id"]
    assert one["vector"] != other["vector"]
    assert run.read_table("vectors")["sample_id"] == one["sample_id"]
    assert run.manifest(embed_stage("padded"), 0) is not None


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
