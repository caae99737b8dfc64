"""The known world: same seed, same bytes; every noise kind at its rate; annotations that are true."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.sample import NoiseRates, make_world
from stages.sample.objects import object_paths, sprite
from stages.sample.world import plan_noise, scene_of


def _digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, 150, seed=11, rates=NoiseRates(huge=0.01), processes=1)
    return folder


def test_same_seed_same_bytes_with_any_number_of_processes(world: Path, tmp_path: Path) -> None:
    make_world(tmp_path, 150, seed=11, rates=NoiseRates(huge=0.01), processes=2)
    assert _digest(tmp_path) == _digest(world)


def test_another_seed_another_world() -> None:
    assert scene_of(1, 0).captions != scene_of(2, 0).captions


def test_at_least_600_kinds_that_can_be_drawn() -> None:
    paths = object_paths()
    assert len(paths) >= 600
    assert list(paths) == sorted(paths)
    assert sprite(paths["anchor"]).mode == "RGBA"


def test_scenes_have_one_to_six_objects_inside_the_picture_and_apart() -> None:
    counts = set()
    for row in range(120):
        scene = scene_of(5, row)
        counts.add(len(scene.objects))
        for placed in scene.objects:
            x, y, width, height = placed.box
            assert x >= 0 and y >= 0
            assert x + width <= scene.picture.width and y + height <= scene.picture.height
    assert counts == {1, 2, 3, 4, 5, 6}


def test_boxes_are_where_the_pixels_are() -> None:
    """A drawing is painted inside its box and nowhere else: outside all boxes there is only background."""
    scene = scene_of(5, 3)
    pixels = np.asarray(scene.picture, np.int16)
    outside = np.ones(pixels.shape[:2], bool)
    for placed in scene.objects:
        x, y, width, height = placed.box
        assert pixels[y : y + height, x : x + width].std() > 20
        outside[y : y + height, x : x + width] = False
    assert pixels[outside].std(0).max() < 30


def test_every_caption_names_every_kind_of_object() -> None:
    for row in range(40):
        scene = scene_of(6, row)
        assert len(scene.captions) == 5
        for name in {placed.name for placed in scene.objects}:
            stem = name[:-2].lower()  # plurals change the ending
            assert all(stem in caption.lower() for caption in scene.captions), (name, scene.captions)


def test_noise_comes_at_its_rates() -> None:
    rates = NoiseRates()
    planned = plan_noise(20_000, seed=3, rates=rates)
    for kind, rate in rates.kinds().items():
        share = sum(name == kind for name, _ in planned) / len(planned)
        assert share == pytest.approx(rate, abs=0.006), kind


def test_each_noise_kind_can_be_had_alone() -> None:
    for kind in NoiseRates.model_fields:
        planned = plan_noise(400, seed=3, rates=NoiseRates.clean().model_copy(update={kind: 0.5}))
        assert {name for name, _ in planned} == {kind, "clean"}


def test_duplicates_copy_a_clean_row_before_them(world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    copies = [row for row in truth if row["noise"].startswith("duplicate_")]
    assert copies
    for row in copies:
        assert row["copied_row"] < row["row"]
        assert truth[row["copied_row"]]["noise"] == "clean"
        assert row["objects"] == truth[row["copied_row"]]["objects"]


def test_exact_duplicates_are_exact_and_others_are_not(world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()

    def bytes_of(row: int) -> bytes:
        return (world / "pictures" / truth[row]["url"].rsplit("/", 1)[1]).read_bytes()

    for row in truth:
        if row["noise"].startswith("duplicate_"):
            same = bytes_of(row["row"]) == bytes_of(row["copied_row"])
            assert same == (row["noise"] == "duplicate_exact")


def test_broken_html_tiny_and_huge_are_what_they_say(world: Path) -> None:
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    seen = set()
    for row in truth:
        data = (world / "pictures" / row["url"].rsplit("/", 1)[1]).read_bytes()
        if row["noise"] == "html":
            assert data.startswith(b"<!DOCTYPE html>")
        elif row["noise"] == "broken":
            with pytest.raises(OSError, match="truncated|identify|broken"):
                Image.open(io.BytesIO(data)).load()
        elif row["noise"] == "tiny":
            assert max(Image.open(io.BytesIO(data)).size) < 16
        elif row["noise"] == "huge":
            assert np.prod(Image.open(io.BytesIO(data)).size) > 16_000_000
        seen.add(row["noise"])
    assert {"html", "broken", "tiny", "huge"} <= seen


def test_annotations_are_coco(world: Path) -> None:
    coco = json.loads((world / "annotations.json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    categories = {category["id"]: category["name"] for category in coco["categories"]}
    truth = pq.read_table(world / "truth.parquet").to_pylist()
    assert len(images) == 150
    for annotation in coco["annotations"]:
        x, y, width, height = annotation["bbox"]
        image = images[annotation["image_id"]]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        if truth[annotation["image_id"]]["noise"] == "clean":
            assert x + width <= image["width"] and y + height <= image["height"]
            assert categories[annotation["category_id"]] in truth[annotation["image_id"]]["objects"]
    clean = [row["row"] for row in truth if row["noise"] == "clean"]
    assert all(sum(caption["image_id"] == row for caption in coco["captions"]) == 5 for row in clean[:10])


def test_urls_say_nothing_of_what_is_behind_them(world: Path) -> None:
    table = pq.read_table(world / "urls.parquet")
    assert table.column_names == ["url", "caption", "captions", "boxes", "licence"]
    assert not any(kind in url for url in table["url"].to_pylist() for kind in NoiseRates.model_fields)
