"""The part: one row for every source row, the same bytes however fast, and retries that touch failed rows alone."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import SluiceError
from schemas.identity import sample_id
from schemas.tables import SAMPLES, SOURCE
from stages.acquire import AcquireSettings, AcquireWork
from stages.run_folder import RunFolder
from stages.source import SourceSettings
from stages.tar import read_members
from tests.stages.acquire.hostile_server import Server, answer, encoded, picture


def make_run(root: Path, urls: list[str | None], part: int = 0) -> RunFolder:
    run = RunFolder(root)
    rows: list[dict[str, Any]] = []
    for index, url in enumerate(urls):
        caption = f"picture {index}, größer"
        rows.append({"sample_id": sample_id(url or "", caption), "row": index, "url": url, "caption": caption})
        rows[-1]["reason"] = "bad_row" if url is None else None
    table = pa.Table.from_pylist(rows, schema=SOURCE)
    run.commit("source", part, "given", {f"source/{part:05d}.parquet": table}, {})
    return run


def samples(run: RunFolder, part: int = 0) -> list[dict[str, Any]]:
    return run.read_table("samples", [part]).to_pylist()


def bytes_of(run: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run.path("samples").iterdir())}


def test_one_row_for_every_source_row(hostile: Server, settings: AcquireSettings, tmp_path: Path) -> None:
    paths = ["/ok.jpg", None, "/missing.jpg", "/page.jpg", "/large.png", "/ok.jpg", "/tdm.jpg"]
    run = make_run(tmp_path, [path and hostile.url(path) for path in paths], part=7)
    counts = AcquireWork(run, settings).process(7)
    assert counts == {
        "bad_row": 1,
        "http_4xx": 1,
        "not_a_picture": 1,
        "opt_out": 1,
        "success": 2,
        "too_many_pixels": 1,
    }
    table = pq.read_table(run.table_path("samples", 7))
    assert table.schema.equals(SAMPLES)
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == list(range(7))
    assert [row["key"] for row in rows] == [f"00007000{index}" for index in range(7)]
    assert [row["reason"] for row in rows] == [
        None,
        "bad_row",
        "http_4xx",
        "not_a_picture",
        "too_many_pixels",
        None,
        "opt_out",
    ]
    assert [row["status"] for row in rows] == [
        "success",
        "failed_to_download",
        "failed_to_download",
        "failed_to_resize",
        "failed_to_resize",
        "success",
        "failed_to_download",
    ]
    assert (rows[4]["original_width"], rows[4]["width"]) == (8000, None)
    stats = json.loads(run.path("samples", "00007_stats.json").read_text())
    assert stats == {
        "count": 7,
        "successes": 2,
        "failed_to_download": 3,
        "failed_to_resize": 2,
        "status_dict": counts,
    }


def test_members_of_the_tar_are_img2datasets(
    hostile: Server, settings: AcquireSettings, tmp_path: Path, good_jpeg: bytes
) -> None:
    run = make_run(tmp_path, [hostile.url("/missing.jpg"), hostile.url("/ok.jpg")])
    AcquireWork(run, settings).process(0)
    tar = run.path("samples", "00000.tar")
    assert dict(read_members(tar, "jpg")) == {"000000001": good_jpeg}
    assert dict(read_members(tar, "txt")) == {"000000001": "picture 1, größer".encode()}
    facts = json.loads(dict(read_members(tar, "json"))["000000001"])
    row = samples(run)[1]
    assert facts == {name: row[name] for name in facts}
    assert {"key", "url", "caption", "sample_id", "sha256", "original_width", "original_height"} <= facts.keys()
    assert facts["sha256"] == hashlib.sha256(good_jpeg).hexdigest()


def test_the_same_bytes_with_any_concurrency(settings: AcquireSettings, tmp_path: Path) -> None:
    server = Server({f"/{number}.png": answer(encoded(picture(90, 60, number), "PNG")) for number in range(60)})
    try:
        urls = [server.url(path) for path in [*server.routes, "/missing.png", "ftp:"]]
        found = []
        for concurrency in (1, 64):
            run = make_run(tmp_path / str(concurrency), urls)
            quick = settings.model_copy(update={"concurrency": concurrency, "per_host": concurrency, "size": 32})
            assert AcquireWork(run, quick).process(0) == {"bad_url": 1, "http_4xx": 1, "success": 60}
            found.append(bytes_of(run))
        assert found[0] == found[1]
    finally:
        server.close()


def test_a_done_part_is_not_asked_for_again(hostile: Server, settings: AcquireSettings, tmp_path: Path) -> None:
    run = make_run(tmp_path, [hostile.url("/ok.jpg"), hostile.url("/500.jpg")])
    work = AcquireWork(run, settings)
    assert not work.done(0)
    work.process(0)
    hostile.asked.clear()
    patient = settings.model_copy(update={"deadline_s": 60, "concurrency": 2, "per_host": 1, "retries": 0})
    for same in (work, AcquireWork(run, patient)):
        assert same.done(0)
        same.process(0)
    assert not hostile.asked
    assert not AcquireWork(run, settings.model_copy(update={"size": 64})).done(0)


def test_retry_asks_only_for_rows_that_may_pass_now(
    settings: AcquireSettings, tmp_path: Path, good_jpeg: bytes
) -> None:
    failure = answer(status="500 Oops")
    hurried = settings.model_copy(update={"retries": 0})
    server = Server({"/a.jpg": answer(good_jpeg), "/b.jpg": [failure, answer(good_jpeg)], "/c.jpg": failure})
    try:
        run = make_run(tmp_path, [server.url(path) for path in ("/a.jpg", "/b.jpg", "/c.jpg", "/d.jpg")] + [None])
        assert AcquireWork(run, hurried).process(0) == {"bad_row": 1, "http_4xx": 1, "http_5xx": 2, "success": 1}
        server.asked.clear()
        server.routes["/b.jpg"] = answer(good_jpeg)
        retry = AcquireWork(run, hurried, retry_failed=True)
        assert not retry.done(0)
        assert retry.process(0) == {"bad_row": 1, "http_4xx": 1, "http_5xx": 1, "success": 2}
        assert server.asked == {"/robots.txt": 1, "/b.jpg": 1, "/c.jpg": 1}
        once = make_run(tmp_path / "once", [row["url"] for row in samples(run)])
        AcquireWork(once, hurried).process(0)
        assert bytes_of(run) == bytes_of(once)
        server.routes["/c.jpg"] = answer(good_jpeg)
        retry.process(0)
        assert retry.done(0)
        assert AcquireWork(run, hurried).done(0)
    finally:
        server.close()


def test_a_retry_that_is_killed_leaves_no_mixture(
    settings: AcquireSettings, tmp_path: Path, good_jpeg: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurried = settings.model_copy(update={"retries": 0})
    server = Server({"/b.jpg": answer(status="500 Oops")})
    try:
        run = make_run(tmp_path, [server.url("/b.jpg")])
        AcquireWork(run, hurried).process(0)
        server.routes["/b.jpg"] = answer(good_jpeg)

        def killed(table: pa.Table) -> bytes:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("stages.run_folder.parquet_bytes", killed)  # after the tar is in place, before the table is
            with pytest.raises(KeyboardInterrupt):
                AcquireWork(run, hurried, retry_failed=True).process(0)
        work = AcquireWork(run, hurried)
        assert not work.done(0)
        assert work.process(0) == {"success": 1}
        assert samples(run)[0]["reason"] is None
    finally:
        server.close()


def test_an_empty_part_and_one_too_large(settings: AcquireSettings, tmp_path: Path) -> None:
    run = make_run(tmp_path, [])
    assert AcquireWork(run, settings).process(0) == {}
    assert samples(run) == []
    assert list(read_members(run.path("samples", "00000.tar"), "jpg")) == []
    with pytest.raises(SluiceError, match="10001 rows"):
        AcquireWork(make_run(tmp_path / "large", [None] * 10_001), settings).process(0)


def _with_source(run: RunFolder, change: dict[int, dict[str, Any]], part: int = 0) -> RunFolder:
    """The same part with other columns in some rows."""
    rows = run.read_table("source", [part]).to_pylist()
    for index, columns in change.items():
        rows[index] |= columns
    table = pa.Table.from_pylist(rows, schema=SOURCE)
    run.commit("source", part, "changed", {f"source/{part:05d}.parquet": table}, {})
    return run


def test_pictures_that_the_source_has_are_read_not_asked_for(
    settings: AcquireSettings, tmp_path: Path, good_jpeg: bytes
) -> None:
    (tmp_path / "a.jpg").write_bytes(good_jpeg)
    (tmp_path / "members.bin").write_bytes(b"head" + good_jpeg + b"tail")
    (tmp_path / "page.jpg").write_bytes(b"<html></html>")
    (tmp_path / "large.jpg").write_bytes(good_jpeg + bytes(3_000_000))
    run = make_run(tmp_path / "run", ["http://10.0.0.1/x.jpg"] * 5)
    files = [("a.jpg", None, None), ("members.bin", 4, len(good_jpeg)), ("page.jpg", None, None),
             ("large.jpg", None, None), ("absent.jpg", None, None)]  # fmt: skip
    places = {
        index: {"picture_file": str(tmp_path / name), "picture_offset": offset, "picture_size": size}
        for index, (name, offset, size) in enumerate(files)
    }
    work = AcquireWork(_with_source(run, places), settings.model_copy(update={"max_mb": 2}))
    work.process(0)
    assert [row["reason"] for row in samples(run)] == [None, None, "not_a_picture", "too_large", "no_file"]
    assert dict(read_members(run.path("samples", "00000.tar"), "jpg")) == dict.fromkeys(
        ["000000000", "000000001"], good_jpeg
    )
    (tmp_path / "absent.jpg").write_bytes(good_jpeg)
    assert AcquireWork(run, settings.model_copy(update={"max_mb": 2}), retry_failed=True).process(0)["success"] == 3


BOX_OF_ALL = {"label": "cat", "x": 0.0, "y": 0.0, "w": 120.0, "h": 90.0}


def test_boxes_come_in_pixels_of_the_original_and_wild_ones_drop_the_row(
    hostile: Server, settings: AcquireSettings, tmp_path: Path
) -> None:
    boxes = [[BOX_OF_ALL], None, [BOX_OF_ALL | {"w": 123.0}], [BOX_OF_ALL | {"x": 60.0}], [BOX_OF_ALL | {"y": -20.0}]]
    run = make_run(tmp_path / "pixels", [hostile.url("/ok.jpg")] * 4 + [hostile.url("/missing.jpg")])
    _with_source(run, {index: {"boxes": given} for index, given in enumerate(boxes)})
    AcquireWork(run, settings).process(0)
    rows = samples(run)
    assert [row["reason"] for row in rows] == [None, None, None, "bad_boxes", "http_4xx"]
    assert [row["boxes"] for row in rows] == [*boxes[:3], None, None]
    assert "box 'cat' goes from x 60 to 180, the picture from 0 to 120" in rows[3]["error_message"]
    assert set(dict(read_members(run.path("samples", "00000.tar"), "jpg"))) == {"000000000", "000000001", "000000002"}

    half = {"label": "cat", "x": 0.5, "y": 0.0, "w": 0.5, "h": 0.5}
    run = _with_source(make_run(tmp_path / "fractions", [hostile.url("/ok.jpg")]), {0: {"boxes": [half]}})
    source = SourceSettings(table="unused.parquet", box_units="fractions")
    AcquireWork(run, settings, source=source).process(0)
    assert samples(run)[0]["boxes"] == [{"label": "cat", "x": 60.0, "y": 0.0, "w": 60.0, "h": 45.0}]


def test_parts_under_way_at_once_share_one_engine(hostile: Server, settings: AcquireSettings, tmp_path: Path) -> None:
    run = make_run(tmp_path, [hostile.url("/ok.jpg"), hostile.url("/missing.jpg")])
    for part in range(1, 6):
        make_run(tmp_path, [hostile.url("/ok.jpg"), hostile.url("/drip.jpg")], part)
    work = AcquireWork(run, settings)
    with ThreadPoolExecutor(3) as threads:
        counts = list(threads.map(work.process, range(6)))
    assert counts == [{"http_4xx": 1, "success": 1}] + [{"deadline": 1, "success": 1}] * 5
    work.close()
