"""Sources in S3 and on the web give the same rows and ids as on a disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import InputError
from stages.run_folder import RunFolder
from stages.source import Pictures, SourceSettings, count_rows, read_picture, write_parts
from tests.stages.source.conftest import Give
from tests.stages.source.data import column, make_coco, make_folder, make_llava, make_tar, picture, put, read


def _tables(root: Path) -> None:
    """Six rows in three files of each form; the names are not in order of writing."""
    rows = [{"url": f"http://a/{n}.jpg", "caption": f"picture, {n}"} for n in range(6)]
    for part in (2, 0, 1):
        mine = rows[2 * part : 2 * part + 2]
        (root / "t").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(mine), root / f"t/{part}.parquet")
        put(root / f"t/{part}.jsonl", "".join(json.dumps(row) + "\n" for row in mine))
        put(root / f"t/{part}.csv", "caption,url\n" + "".join(f'"{row["caption"]}",{row["url"]}\n' for row in mine))
        put(root / f"t/{part}.tsv", "caption\turl\n" + "".join(f"{row['caption']}\t{row['url']}\n" for row in mine))


@pytest.fixture(params=["s3", "web"])
def give(request: pytest.FixtureRequest) -> Give:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize("store", ["local", "s3", "web"])
def test_a_glob_of_tables_is_one_table(tmp_path: Path, request: pytest.FixtureRequest, store: str, form: str) -> None:
    _tables(tmp_path)
    address = str(tmp_path) if store == "local" else request.getfixturevalue(store)(tmp_path, f"glob-{form}")
    rows = read(f"{address}/t/*.{form}", rows_per_part=4)
    assert column(rows, "url") == [f"http://a/{n}.jpg" for n in range(6)]
    assert column(rows, "caption") == [f"picture, {n}" for n in range(6)]
    assert read(f"{address}/t/0.{form}") == rows[:2]
    turned = read([f"{address}/t/1.{form}", f"{address}/t/0.{form}"])
    assert column(turned, "url") == [row["url"] for row in rows[2:4] + rows[:2]]
    assert count_rows(SourceSettings(table=f"{address}/t/*.{form}")) == (6 if form == "parquet" else None)
    with pytest.raises(InputError, match="no file fits"):
        read(f"{address}/t/9*.{form}")


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_every_file_of_a_glob_must_have_the_columns(tmp_path: Path, form: str) -> None:
    _tables(tmp_path)
    for path in tmp_path.glob("t/2.*"):
        path.unlink()
    row = {"url": "u", "text": "c"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "t/2.parquet")
    put(tmp_path / "t/2.jsonl", row)
    put(tmp_path / "t/2.csv", "url,text\nu,c\n")
    with pytest.raises(InputError, match=f"2.{form} has no column 'caption'"):
        write_parts(RunFolder(tmp_path / "run"), SourceSettings(table=f"{tmp_path}/t/*.{form}", rows_per_part=1))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("make", "name", "keys"),
    [
        (make_folder, "", {}),
        (lambda root: (make_tar(root, "00001.tar", 1), make_tar(root)), "", {}),
        (make_tar, "00000.tar", {}),
        (make_coco, "*_val.json", {"pictures": "pictures"}),
        (make_llava, "llava.json", {"pictures": "pictures"}),
    ],
    ids=["folder", "webdataset", "tar", "coco", "llava"],
)
def test_every_form_reads_from_a_store_as_from_a_disk(
    tmp_path: Path, give: Give, make: Callable[[Path], Any], name: str, keys: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    local = tmp_path / "data"
    make(local)
    address = give(local, request.node.callspec.id)
    there = read(f"{address}/{name}", **{key: f"{address}/{value}" for key, value in keys.items()})
    here = read(f"{local}/{name}", **{key: f"{local}/{value}" for key, value in keys.items()})
    if keys and address.startswith("http"):  # pictures on the web are downloaded
        assert column(there, "picture_file") == [None] * len(there)
        taken = [row for row in here if row["reason"] is None]
        named = [row["picture_file"] is None or "f.jpg" in row["url"] for row in taken]  # by the record itself
        assert [row["url"] for row in there if row["reason"] is None] == [
            row["url"] if own else row["picture_file"].replace(str(local), address)
            for row, own in zip(taken, named, strict=True)
        ]
        return
    moved = [row["picture_file"] and row["picture_file"].replace(address, str(local)) for row in there]
    assert moved == column(here, "picture_file")
    unlike = {"picture_file": None}
    if make is make_folder and address.startswith("http"):
        unlike["picture_size"] = None  # a web page that lists files says nothing of their sizes
    assert [row | unlike for row in there] == [row | unlike for row in here]
    if not keys:
        with Pictures() as pictures:
            found = [[pictures.read(*(row[key] for key in ("picture_file", "picture_offset", "picture_size")))
                      for row in rows if row["reason"] is None] for rows in (there, here)]  # fmt: skip
        assert found[0] == found[1] and len(found[0]) >= 2


def test_what_a_store_lacks(tmp_path: Path, give: Give, request: pytest.FixtureRequest) -> None:
    put(tmp_path / "a.txt", "a")
    address = give(tmp_path, request.node.callspec.id)
    with pytest.raises(InputError, match="cannot read .*absent.csv"):
        read(f"{address}/absent.csv")
    for place in ((f"{address}/absent.jpg", None, None), (f"{address}/absent.tar", 512, 10)):
        with pytest.raises(OSError, match="absent"):
            read_picture(*place)


def test_a_remote_key_follows_the_content(tmp_path: Path, s3: Give) -> None:
    put(tmp_path / "k/t.csv", "url,caption\nu,one\n")
    run, settings = RunFolder(tmp_path / "run"), SourceSettings(table=f"{s3(tmp_path / 'k', 'key')}/t.csv")
    write_parts(run, settings)
    written = run.table_path("source", 0).stat().st_mtime_ns
    write_parts(run, settings)
    assert run.table_path("source", 0).stat().st_mtime_ns == written
    put(tmp_path / "k/t.csv", "url,caption\nu,two\n")
    s3(tmp_path / "k", "key")
    write_parts(run, settings)
    assert run.read_table("source")["caption"].to_pylist() == ["two"]


def test_a_store_is_found_by_its_options(tmp_path: Path, s3: Give) -> None:
    put(tmp_path / "t.csv", "url,caption\nu,c\n")
    address = s3(tmp_path, "options")
    with pytest.MonkeyPatch.context() as patch:
        options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]}
        patch.delenv("AWS_ENDPOINT_URL")
        assert column(read(f"{address}/t.csv", storage_options=options), "url") == ["u"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nostore://b/t.csv", "Protocol not known"), ("gs://b/t.csv", "install gcsfs"), ("s3://b/t.csv", "cannot read")],
)
def test_stores_that_cannot_be_opened(name: str, message: str) -> None:
    options = {"endpoint_url": "http://127.0.0.1:1", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(InputError, match=message):
        read(name, storage_options=options)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_web_server_without_ranges_serves_small_files(tmp_path: Path, plain_web: str, form: str) -> None:
    _tables(tmp_path)
    assert column(read(f"{plain_web}/t/0.{form}"), "url") == ["http://a/0.jpg", "http://a/1.jpg"]
    put(tmp_path / "a.jpg", picture(1))
    assert read_picture(f"{plain_web}/a.jpg", None, None) == picture(1)


def test_a_web_server_without_ranges_is_told_of(tmp_path: Path, plain_web: str) -> None:
    pq.write_table(pa.table({"url": [os.urandom(16).hex() for _ in range(600_000)], "caption": ["c"] * 600_000}),
                   tmp_path / "t.parquet")  # fmt: skip
    for read_it in (lambda url: read(url), lambda url: read_picture(url, 1000, 10)):
        with pytest.raises((InputError, OSError), match="range"):
            read_it(f"{plain_web}/t.parquet")
