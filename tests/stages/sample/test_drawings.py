"""Scenes of other drawings than OpenMoji's: a folder of NAME.png and NAME.svg."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from pipelines.cli import app
from schemas.errors import InputError
from stages.sample import NoiseRates, make_world
from stages.sample.objects import SPRITE_PX, object_paths, sprite
from stages.sample.world import scene_of

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 40"><rect width="20" height="40" fill="#00f"/></svg>'


@pytest.fixture
def drawings(tmp_path: Path) -> Path:
    folder = tmp_path / "drawings"
    folder.mkdir()
    for name, colour in (("red_ball", "red"), ("lime", "lime")):
        picture = Image.new("RGBA", (300, 200))
        ImageDraw.Draw(picture).ellipse((50, 20, 250, 180), fill=colour)
        picture.save(folder / f"{name}.png")
    (folder / "blue post.svg").write_text(SVG)
    (folder / "LICENSE.txt").write_text("of the drawings")
    return folder


def test_names_are_those_of_the_files(drawings: Path) -> None:
    assert {name: path.name for name, path in object_paths(drawings).items()} == {
        "blue post": "blue post.svg", "lime": "lime.png", "red ball": "red_ball.png",
    }  # fmt: skip


def test_drawings_are_cut_to_what_is_painted_and_brought_to_size(drawings: Path) -> None:
    assert sprite(drawings / "red_ball.png").size == (SPRITE_PX, round(SPRITE_PX * 161 / 201))
    assert sprite(drawings / "blue post.svg").size == (SPRITE_PX // 2, SPRITE_PX)


def test_scenes_show_and_name_these_drawings_alone(drawings: Path) -> None:
    seen = set()
    for row in range(12):
        scene = scene_of(3, row, drawings)
        for placed in scene.objects:
            x, y, width, height = placed.box
            centre = np.asarray(scene.picture)[y + height // 2, x + width // 2]
            assert int(np.argmax(centre)) == {"red ball": 0, "lime": 1, "blue post": 2}[placed.name]
            assert placed.name in scene.captions[0] or placed.name in scene.captions[0].replace("s", "")
            seen.add(placed.name)
    assert seen == set(object_paths(drawings))


def test_a_world_says_where_its_drawings_come_from_and_claims_no_licence(drawings: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    ran = CliRunner().invoke(
        app, ["sample", str(world), "--scenes", "4", "--seed", "5", "--clean", "--drawings", str(drawings)]
    )
    assert ran.exit_code == 0, ran.output
    about = json.loads((world / "world.json").read_text())
    assert (about["kinds"], about["drawings"]) == (3, str(drawings))
    assert pq.read_table(world / "urls.parquet")["licence"].to_pylist() == [None] * 4
    categories = json.loads((world / "annotations.json").read_text())["categories"]
    assert [each["name"] for each in categories] == ["blue post", "lime", "red ball"]


def test_the_same_seed_and_drawings_give_the_same_bytes(drawings: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_world(tmp_path / name, 4, 6, NoiseRates.clean(), processes=1, drawings=drawings)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds no drawing NAME.png or NAME.svg"),
        (lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(), "there is no folder"),
        (lambda folder: (folder / "red ball.svg").write_text(SVG), "have one name; remove one"),
    ],
)
def test_a_folder_that_will_not_do_is_refused(drawings: Path, spoil, message: str) -> None:
    spoil(drawings)
    with pytest.raises(InputError, match=message):
        object_paths(drawings)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("torn.png", b"\x89PNG and no more", "torn.png cannot be drawn"),
        ("torn.svg", b"<svg", "torn.svg cannot be drawn"),
        ("clear.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "nothing in it is painted"),
    ],
)
def test_a_drawing_that_cannot_be_drawn_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        sprite(path)
