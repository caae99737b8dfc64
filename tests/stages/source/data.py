"""Small data sets in the forms of the field, on a disk."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from stages.source import SourceSettings, read_source
from stages.tar import tar_bytes


def picture(colour: int, form: str = "JPEG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (colour, 0, 0)).save(file, form)
    return file.getvalue()


def put(path: Path, content: bytes | str | Any) -> Path:
    """Writes bytes, text, or a value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, bytes | str) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(table: Path | str | list[str], **keys: Any) -> list[dict[str, Any]]:
    """The rows of a source."""
    name = str(table) if isinstance(table, Path) else table
    return pa.concat_tables(read_source(SourceSettings(table=name, **keys))).to_pylist()


def column(rows: Iterable[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def make_folder(root: Path) -> Path:
    put(root / "b/2.PNG", picture(2, "PNG"))
    put(root / "b/2.txt", "two\n")
    put(root / "a.b.jpg", picture(1))
    put(root / "a.b.txt", "one")
    put(root / "c.webp", picture(3, "WEBP"))
    put(root / ".hidden/4.jpg", picture(4))
    put(root / "notes.md", "no picture")
    return root


def make_tar(root: Path, name: str = "00000.tar", first: int = 0) -> Path:
    """A tar as img2dataset writes it: three samples, the second without a picture, the third without json."""
    members = [
        (f"{first:04d}0.jpg", picture(10 + first)),
        (f"{first:04d}0.json", json.dumps({"url": f"http://a/{first}.jpg", "caption": "zero", "key": "0"}).encode()),
        (f"{first:04d}0.txt", b"zero"),
        (f"{first:04d}1.json", json.dumps({"url": "http://a/failed.jpg", "caption": "none"}).encode()),
        (f"{first:04d}1.txt", b"none"),
        (f"{first:04d}2.png", picture(30 + first, "PNG")),
        (f"{first:04d}2.txt", b"two"),
    ]
    return put(root / name, tar_bytes(members)[0])


def make_coco(root: Path, number: Callable[[list[float]], list[float]] = list) -> list[str]:
    """captions_val.json and instances_val.json; `number` turns a box into the form that is wanted."""
    images = [
        {"id": 7, "file_name": "7.jpg", "coco_url": "http://coco/7.jpg", "license": 1},
        {"id": 8, "file_name": "sub/8.jpg", "flickr_url": "http://flickr/8.jpg"},
        {"id": 9, "file_name": "9.jpg"},
    ]
    captions = [
        {"id": 1, "image_id": 8, "caption": "eight"},
        {"id": 2, "image_id": 7, "caption": "seven"},
        {"id": 3, "image_id": 7, "caption": "seven again"},
    ]
    boxes = [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": number([1, 2, 3, 4]), "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 1, "bbox": number([5, 6, 7, 8]), "iscrowd": 1},
        {"id": 3, "image_id": 7, "category_id": 1, "bbox": number([9, 9, 2, 2])},
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    licences = [{"id": 1, "name": "BY", "url": "http://by"}]
    first = put(root / "captions_val.json", {"images": images, "annotations": captions, "licenses": licences})
    second = put(root / "instances_val.json", {"images": images, "annotations": boxes, "categories": categories})
    return [str(first), str(second)]


def make_llava(root: Path) -> Path:
    def talk(question: str, answer: str) -> list[dict[str, str]]:
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    return put(
        root / "llava.json",
        [
            {"id": "a", "image": "train/a.jpg", "conversations": talk("<image>\nWhat?", "a cat") + talk("More?", "no")},
            {"id": "b", "conversations": talk("Hello", "text only")},
            {"id": "c", "image": "train/c.jpg", "conversations": [{"from": "human", "value": "no answer"}]},
            {"id": "d", "image": "../secret.jpg", "conversations": talk("<image>", "leads out of the folder")},
            {"id": "e", "image": "train/e.jpg", "conversations": "broken"},
            {"id": "f", "image": "http://a/f.jpg", "conversations": talk("<image>", "an address")},
            {"id": "g", "conversations": talk("<image>\nWhat?", "its picture was forgotten")},
        ],
    )


def make_visual_genome(root: Path) -> list[str]:
    """Two pictures in the layout of visualgenome.org, version 1.2."""
    site = "https://cs.stanford.edu/people/rak248"
    images = [
        {"image_id": 1, "url": f"{site}/VG_100K_2/1.jpg", "width": 800, "height": 600, "coco_id": None},
        {"image_id": 2, "url": f"{site}/VG_100K/2.jpg", "width": 800, "height": 600, "coco_id": None},
    ]
    regions = [
        {"region_id": 1, "image_id": 1, "phrase": "the clock is green", "x": 421, "y": 57, "width": 82, "height": 139},
        {"region_id": 2, "image_id": 1, "phrase": "a street with trees", "x": 0, "y": 0, "width": 700, "height": 500},
    ]
    clock = {"object_id": 5, "names": ["clock"], "synsets": ["clock.n.01"], "x": 421, "y": 91, "w": 79, "h": 339}
    pairs = [("What colour is the clock?", "Green."), ("Where is it?", "In the street."), ("Empty?", " ")]
    questions = [{"qa_id": n, "image_id": 1, "question": q, "answer": a} for n, (q, a) in enumerate(pairs)]
    other = [{"qa_id": 9, "image_id": 2, "question": "Where is it?", "answer": "On the wall."}]
    files = {
        "image_data": images,
        "region_descriptions": [{"id": 1, "regions": regions}, {"id": 2, "regions": []}],
        "objects": [{"image_id": 1, "objects": [clock], "image_url": images[0]["url"]}, {"image_id": 2, "objects": []}],
        "question_answers": [{"id": 1, "qas": questions}, {"id": 2, "qas": other}],
        "attributes": [{"image_id": 1, "attributes": [{"names": ["clock"], "attributes": ["green"]}]}],
    }
    return [str(put(root / f"{name}.json", content)) for name, content in files.items()]
