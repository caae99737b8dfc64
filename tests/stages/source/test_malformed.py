"""Whatever stands in a source, no row is lost and nothing but an InputError is raised."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.errors import InputError
from tests.stages.source.data import put, read

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["\ud800", 10**400])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=6)  # fmt: skip # noqa: E501
text = st.text(min_size=1, max_size=6)


def _often(likely: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what belongs there, now and then anything."""
    return st.one_of(likely, likely, likely, likely, values)


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return _often(st.fixed_dictionaries({}, optional={name: _often(field) for name, field in fields.items()}))


numbers = st.integers(-3, 9) | st.floats()
box = _object(label=text, x=numbers, y=numbers, w=numbers, h=numbers)
line = _object(url=text, caption=text, captions=st.lists(_often(text), max_size=3), boxes=st.lists(box, max_size=2))
ids = st.integers(0, 3)
image = _object(id=ids, file_name=text, coco_url=text.map("http://a/{}".format), license=ids)
note = _object(image_id=ids, caption=text, category_id=ids, iscrowd=st.integers(0, 1),
               bbox=st.lists(_often(numbers), min_size=3, max_size=5))  # fmt: skip
named = _object(id=ids, name=text, url=text)
talk = _object(**{"from": st.sampled_from(["human", "gpt"]), "value": text})
record = _object(id=ids, image=text, conversations=st.lists(talk, max_size=3), url=text)


def _check(content: bytes, name: str, rows: int, **keys: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = read(put(Path(folder, name), content), rows_per_part=3, **keys)
        except InputError:
            return
    assert len(found) == rows
    assert [row["row"] for row in found] == list(range(rows))
    assert len({row["sample_id"] for row in found}) == rows
    for row in found:
        if row["reason"] != "bad_row":
            assert row["text_only"] or row["url"].strip()
            assert row["captions"][0] == row["caption"]


@settings(max_examples=80, deadline=None)
@given(st.lists(line.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=12), min_size=1, max_size=8),
       st.sampled_from(["xywh", "xyxy"]), st.sampled_from(["pixels", "fractions"]))  # fmt: skip
def test_json_lines(lines: list[bytes], form: str, units: str) -> None:
    lines = [json.dumps({"url": "http://a", "caption": "c", "captions": None, "boxes": None}).encode(), *lines]
    content = b"\n".join(lines)
    rows = sum(bool(each.strip()) for each in content.split(b"\n"))
    _check(content, "t.jsonl", rows, captions="captions", boxes="boxes", box_form=form, box_units=units)


@settings(max_examples=80, deadline=None)
@given(st.lists(image, max_size=5), st.lists(note, max_size=6), _often(st.lists(named, max_size=3)), st.booleans())
def test_coco(images: list[Any], notes: list[Any], names: Any, given_folder: bool) -> None:
    data = {"images": images, "annotations": notes, "categories": names, "licenses": names}
    _check(json.dumps(data).encode(), "c.json", len(images), pictures="/pictures" if given_folder else None)


@settings(max_examples=60, deadline=None)
@given(st.lists(record, max_size=5))
@example([{"conversations": [{"from": "gpt", "value": "0"}]}])  # about no picture, and nobody asks: instruct refuses it
def test_llava(records: list[Any]) -> None:
    records = [{"conversations": []}, *records]
    _check(json.dumps(records).encode(), "l.json", len(records), pictures="/pictures")


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.json", "t.tar", "f/metadata.csv"])
@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=600))
def test_noise(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder, name), content)
        with pytest.raises(InputError):
            read(path.parent if "/" in name else path, form="folder" if "/" in name else "auto")
