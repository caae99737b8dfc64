"""The forms beyond tables: what becomes of their records, and where their pictures are found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.errors import InputError
from schemas.tables import SOURCE
from stages.run_folder import RunFolder
from stages.source import Pictures, SourceSettings, count_rows, read_picture, read_source, write_parts
from stages.tar import tar_bytes
from tests.stages.source.data import (
    column,
    make_coco,
    make_folder,
    make_llava,
    make_tar,
    make_visual_genome,
    picture,
    put,
    read,
)

GOOD, BAD = None, "bad_row"


def test_a_folder_with_captions_beside_the_pictures(tmp_path: Path) -> None:
    rows = read(make_folder(tmp_path / "f"))
    assert column(rows, "url") == ["a.b.jpg", "b/2.PNG", "c.webp"]
    assert column(rows, "caption") == ["one", "two", None]
    assert column(rows, "reason") == [GOOD, GOOD, BAD]
    assert column(rows, "picture_file")[:2] == [str(tmp_path / "f/a.b.jpg"), str(tmp_path / "f/b/2.PNG")]
    assert column(rows, "picture_offset") == [None] * 3
    assert rows[0]["picture_size"] == len(picture(1))
    assert read_picture(rows[0]["picture_file"], None, None) == picture(1)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_folder_with_metadata_as_imagefolder_has_it(tmp_path: Path, kind: str) -> None:
    for name in ("1.jpg", "2.jpg", "in/3.jpg", "4.jpg"):
        put(tmp_path / name, picture(1))
    metadata = {
        "": [("1.jpg", "first", "http://a/1.jpg"), ("1.jpg", "first again", ""), ("gone.jpg", "no picture", ""),
             ("", "no name", "")],
        "in": [("3.jpg", "third", "")],
    }  # fmt: skip
    for folder, entries in metadata.items():
        lines = [json.dumps({"file_name": f, "text": t, **({"url": u} if u else {})}) for f, t, u in entries]
        text = "file_name,text,url\n" + "".join(f"{f},{t},{u}\n" for f, t, u in entries)
        put(tmp_path / folder / f"metadata.{kind}", text if kind == "csv" else "\n".join([*lines, ""]))
    rows = read(tmp_path)
    assert column(rows, "caption") == ["first", "first again", None, None, "no picture", "third", "no name"]
    assert column(rows, "url")[2:6] == ["2.jpg", "4.jpg", "gone.jpg", "in/3.jpg"]
    assert rows[0]["url"] == "http://a/1.jpg" and rows[1]["url"] == "1.jpg"
    assert column(rows, "reason") == [GOOD, GOOD, BAD, BAD, BAD, GOOD, BAD]
    assert column(read(tmp_path, caption="text"), "caption") == column(rows, "caption")
    with pytest.raises(InputError, match="source.caption: .* has no column 'txet'; did you mean 'text'"):
        read(tmp_path, caption="txet")


def test_a_folder_as_img2dataset_writes_files(tmp_path: Path) -> None:
    put(tmp_path / "00000/0.jpg", picture(1))
    put(tmp_path / "00000/0.txt", "zero")
    put(tmp_path / "00000/0.json", {"url": "http://a/0.jpg", "rights": "mine"})
    put(tmp_path / "00000/1.jpg", picture(2))
    put(tmp_path / "00000/1.txt", "one")
    put(tmp_path / "00000/1.json", "{broken")
    put(tmp_path / "00000/2.jpg", picture(2))
    put(tmp_path / "00000/2.txt", b"\xff\xfe")
    rows = read(tmp_path, licence="rights")
    assert column(rows, "url") == ["http://a/0.jpg", "00000/1.jpg", "00000/2.jpg"]
    assert column(rows, "reason") == [GOOD, BAD, BAD]
    assert rows[0]["licence"] == "mine"


def test_an_img2dataset_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    for index, name in enumerate(["00001.tar", "00000.tar"]):
        make_tar(tmp_path, name, first=index)
    pq.write_table(pa.table({"status": ["success", "failed_to_download"]}), tmp_path / "00000.parquet")
    put(tmp_path / "00000_stats.json", {"count": 2})
    rows = read(tmp_path, rows_per_part=4)
    assert column(rows, "row") == list(range(6))
    assert column(rows, "url") == ["http://a/1.jpg", "http://a/failed.jpg", "00000.tar/00012.png",
                                   "http://a/0.jpg", "http://a/failed.jpg", "00001.tar/00002.png"]  # fmt: skip
    assert column(rows, "caption") == ["zero", "none", "two"] * 2
    assert column(rows, "reason") == [GOOD, BAD, GOOD] * 2
    with Pictures() as pictures:
        found = [pictures.read(*map(row.get, ("picture_file", "picture_offset", "picture_size")))
                 for row in rows if row["reason"] is None]  # fmt: skip
    assert found == [picture(11), picture(31, "PNG"), picture(10), picture(30, "PNG")]


def test_fields_of_a_tars_json_are_mapped(tmp_path: Path) -> None:
    box = {"label": "cat", "x": 1, "y": 2, "w": 3, "h": 4}
    facts = {"page": "http://a/1", "long": "a long one", "boxes": [box], "all": ["short"], "rights": "mine"}
    members = [("1.jpg", b"j"), ("1.txt", b"short"), ("1.json", json.dumps(facts).encode()),
               ("2.jpg", b"j"), ("2.txt", b"short"), ("2.json", b"[]")]  # fmt: skip
    path = put(tmp_path / "a.tar", tar_bytes(members)[0])
    rows = read(path, url="page", caption="long", boxes="boxes", captions="all", licence="rights")
    assert (rows[0]["url"], rows[0]["caption"], rows[0]["captions"]) == ("http://a/1", "a long one", ["a long one", "short"])  # fmt: skip # noqa: E501
    assert rows[0]["boxes"] == [box] and rows[0]["licence"] == "mine"
    assert column(rows, "reason") == [GOOD, BAD]
    assert column(read(path), "caption") == ["short", "short"]
    with pytest.raises(InputError, match="source.boxes: .*a.tar has no column 'boxen'; did you mean 'boxes'"):
        read(path, boxes="boxen")
    with pytest.raises(InputError, match="source.pictures: the form webdataset has no use"):
        read(path, pictures="elsewhere")


def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    whole = make_tar(tmp_path, "whole.tar").read_bytes()
    put(tmp_path / "data.tar", whole[: 512 + 100])
    put(tmp_path / "header.tar", whole[: whole.index(b"00000.json") + 90])
    put(tmp_path / "noise.tar", whole[: whole.index(b"00000.json")] + b"\x07" * 2048)
    put(tmp_path / "text.tar", "no tar at all")
    for name in ("data", "header", "noise", "text"):
        with pytest.raises(InputError, match=f"cannot read .*{name}.tar"):
            read(tmp_path / f"{name}.tar")


def test_coco_captions_and_instances_are_joined(tmp_path: Path) -> None:
    tables = make_coco(tmp_path)
    for order in (tables, tables[::-1]):
        rows = read(order, pictures=str(tmp_path / "val"))
        assert column(rows, "url") == ["http://coco/7.jpg", "http://flickr/8.jpg", "9.jpg"]
        assert column(rows, "caption") == ["seven", "eight", None]
        assert column(rows, "captions") == [["seven", "seven again"], ["eight"], None]
        assert rows[0]["boxes"] == [{"label": "dog", "x": 1, "y": 2, "w": 3, "h": 4},
                                    {"label": "cat", "x": 9, "y": 9, "w": 2, "h": 2}]  # fmt: skip
        assert rows[1]["boxes"] == []
        assert column(rows, "reason") == [GOOD, GOOD, BAD]
        assert column(rows, "picture_file") == [f"{tmp_path}/val/{name}" for name in ("7.jpg", "sub/8.jpg", "9.jpg")]
    assert column(read(tables), "licence") == ["http://by", None, None]
    assert count_rows(SourceSettings(table=tables)) == 3

    captions = read(tables[0])
    assert column(captions, "boxes") == [None] * 3 and column(captions, "picture_file") == [None] * 3
    assert column(read(str(tmp_path / "*_val.json")), "captions") == column(rows, "captions")


def test_coco_pictures_under_an_address(tmp_path: Path) -> None:
    rows = read(make_coco(tmp_path), pictures="https://host/val 2017")
    assert column(rows, "url")[:2] == ["https://host/val 2017/7.jpg", "https://host/val 2017/sub/8.jpg"]
    assert column(rows, "picture_file") == [None] * 3


def test_coco_names_without_a_place_are_refused_before_work(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "1.jpg"}
    path = put(tmp_path / "c.json", {"images": [image], "annotations": [{"image_id": 1, "caption": "c"}]})
    with pytest.raises(InputError, match="source.pictures: .*'1.jpg'"):
        read(path)
    assert read(path, pictures=str(tmp_path))[0]["url"] == "1.jpg"


def test_llava_conversations_come_along(tmp_path: Path) -> None:
    path = make_llava(tmp_path)
    rows = read(path, pictures=str(tmp_path / "pictures"))
    assert column(rows, "reason") == [GOOD, GOOD, BAD, BAD, BAD, GOOD, BAD]
    assert column(rows, "text_only") == [False, True, False, False, False, False, False]
    assert rows[1]["url"] is None and rows[1]["caption"] == "text only"
    assert rows[0]["url"] == "train/a.jpg" and rows[0]["caption"] == "a cat"
    assert json.loads(rows[0]["conversation"]) == json.loads(path.read_text())[0]["conversations"]
    assert rows[0]["picture_file"] == str(tmp_path / "pictures/train/a.jpg")
    assert column(rows, "picture_file")[3:] == [None, str(tmp_path / "pictures/train/e.jpg"), None, None]
    assert rows[5]["url"] == "http://a/f.jpg"
    assert column(rows, "conversation")[2:5] == [None] * 3


def test_text_only_conversations_alone_need_no_pictures(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "text only"}]
    rows = read(put(tmp_path / "t.json", [{"id": "a", "conversations": talk}, {"id": "b", "conversations": talk}]))
    assert column(rows, "text_only") == [True, True] and column(rows, "reason") == [GOOD, GOOD]
    assert len(set(column(rows, "sample_id"))) == 2


def test_visual_genome_is_joined_by_picture(tmp_path: Path) -> None:
    files = make_visual_genome(tmp_path)
    for table in (files, files[::-1], str(tmp_path / "*.json")):
        rows = read(table, form="visual_genome", pictures=str(tmp_path))
        assert column(rows, "picture_file") == [f"{tmp_path}/VG_100K_2/1.jpg", f"{tmp_path}/VG_100K/2.jpg"]
        assert rows[0]["url"] == "https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg"
        assert rows[0]["captions"] == ["a street with trees", "the clock is green"]
        assert rows[0]["boxes"] == [{"label": "clock", "x": 421, "y": 91, "w": 79, "h": 339}]
        assert [turn["value"] for turn in json.loads(rows[0]["conversation"])] == [
            "<image>\nWhat colour is the clock?", "Green.", "Where is it?", "In the street."]  # fmt: skip
        assert rows[1]["caption"] == "On the wall." and rows[1]["boxes"] == []
        assert column(rows, "reason") == [GOOD, GOOD]
    alone = read(files[0], form="visual_genome")
    assert column(alone, "reason") == [BAD, BAD] and column(alone, "boxes") == [None, None]
    with pytest.raises(InputError, match="no entry of .*image_data.json has them"):
        read(files[1], form="visual_genome")
    with pytest.raises(InputError, match="box_form"):
        read(files, form="visual_genome", box_form="xyxy")


@pytest.mark.parametrize("form", ["folder", "webdataset", "llava"])
def test_ids_do_not_depend_on_where_the_source_lies(tmp_path: Path, form: str) -> None:
    make = {"folder": make_folder, "webdataset": lambda root: make_tar(root).parent, "llava": make_llava}[form]
    first = make(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "else/where")
    second = tmp_path / "else/where" / first.relative_to(tmp_path / "here")
    keys = [{"pictures": str(path.parent)} if form == "llava" else {} for path in (first, second)]
    rows = [read(path, **key) for path, key in zip((first, second), keys, strict=True)]
    assert column(rows[0], "sample_id") == column(rows[1], "sample_id")
    assert rows[0][0]["picture_file"] != rows[1][0]["picture_file"]


def test_the_form_is_told_by_what_lies_there(tmp_path: Path) -> None:
    put(tmp_path / "empty/readme.txt", "nothing")
    put(tmp_path / "other.json", {"rows": []})
    put(tmp_path / "list.json", [1, 2])
    put(tmp_path / "lines.json", '{"url": "u", "caption": "c"}\n{"url": "v", "caption": "c"}\n')
    for name, message in [
        ("empty", "empty is of no known form; .*folder .* jsonl .* webdataset"),
        ("other.json", "is no COCO file"),
        ("list.json", "is no LLaVA file"),
        ("lines.json", "is not JSON .*source.form: jsonl"),
    ]:
        with pytest.raises(InputError, match=message.replace(" .* ", ".*")):
            read(tmp_path / name)
    assert column(read(tmp_path / "lines.json", form="jsonl"), "url") == ["u", "v"]
    put(tmp_path / "table.dat", "url\tcaption\nu\tc\n")
    assert column(read(tmp_path / "table.dat", form="tsv"), "url") == ["u"]
    with pytest.raises(ValueError, match="there is no form 'xml'; known are auto, coco, csv"):
        SourceSettings(table="t", form="xml")


def test_secrets_are_refused() -> None:
    for options in ({"secret": "s"}, {"client_kwargs": {"aws_session_token": "t"}}):
        with pytest.raises(ValueError, match="give it in the environment"):
            SourceSettings(table="s3://b/t.csv", storage_options=options)
    assert SourceSettings(table="t", storage_options={"token": "anon"}).storage_options


def test_a_table_may_name_files_under_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "pics/a.jpg", b"a")
    path = put(tmp_path / "t.csv", "url,caption\na.jpg,c\n/etc/passwd,c\nx/../../t.csv,c\nhttp://a/b.jpg,c\n")
    rows = read(path, pictures=f"file://{tmp_path}/pics/")
    assert column(rows, "picture_file") == [str(tmp_path / "pics/a.jpg"), None, None, None]
    assert column(rows, "reason") == [GOOD, BAD, BAD, GOOD]
    assert read_picture(rows[0]["picture_file"], None, None) == b"a"


def test_what_is_not_there_is_an_oserror(tmp_path: Path) -> None:
    file = str(put(tmp_path / "a.jpg", b"12345"))
    assert read_picture(file, 1, 3) == b"234"
    gone = str(tmp_path / "no.jpg")
    for arguments in [(gone, None, None), (gone, 0, 1), (file, 3, 3), (file, 1, None), (str(tmp_path), None, None),
                      ("nostore://x", None, None)]:  # fmt: skip
        with pytest.raises(OSError, match=r"."):
            read_picture(*arguments)
    with Pictures(most_bytes=4) as pictures:
        assert pictures.read(file, 0, 4) == b"1234"
        for arguments in [(file, 0, 5), (file, None, None)]:
            with pytest.raises(OSError, match="more than 4 bytes"):
                pictures.read(*arguments)


def test_rows_have_the_one_schema_and_follow_their_folder(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f")
    settings = SourceSettings(table=str(folder), rows_per_part=2)
    assert {part.schema for part in read_source(settings)} == {SOURCE}
    run = RunFolder(tmp_path / "run")
    assert write_parts(run, settings) == {"rows": 3, "parts": 2, "bad_row": 1}
    key = run.manifest("source", "all")["key"]  # type: ignore[index]
    written = run.table_path("source", 0).stat().st_mtime_ns
    (folder / "a.b.txt").touch()
    write_parts(run, settings)
    assert run.table_path("source", 0).stat().st_mtime_ns == written

    put(folder / "a.b.txt", "eno")
    write_parts(run, settings)
    assert run.read_table("source")["caption"].to_pylist() == ["eno", "two", None]
    assert run.manifest("source", "all")["key"] != key  # type: ignore[index]

    folder.rename(tmp_path / "moved")
    write_parts(run, settings.model_copy(update={"table": str(tmp_path / "moved")}))
    assert run.read_table("source")["picture_file"][0].as_py() == str(tmp_path / "moved/a.b.jpg")
