"""Tilings: known from a picture's size alone, and each part of a picture is read once, in its place."""

from types import SimpleNamespace
from typing import Any

import models.compat  # noqa: F401

# isort: split
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from transformers import LlavaNextImageProcessor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from models.connectors import Widths, connector_class
from models.full import ModelSettings, picture_layout
from models.layout import PictureLayout
from models.pictures import PictureFormat
from models.tiling import NEWLINE, Tiling, tiling_names
from models.tiling.anyres import Anyres
from models.tiling.overlap import Overlap
from models.tiling.pad import Pad
from models.tiling.square import Square
from schemas.errors import InputError

FORM = PictureFormat(48, 6, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
CLIP_336 = PictureFormat(336, 14, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
WIDE = Overlap(crops=6, margins=(2, 2))
TILINGS: list[Tiling] = [
    Square(),
    Pad(),
    Anyres(),
    Anyres(grids=((1, 1), (2, 3), (4, 1))),
    WIDE,
    Overlap(margins=(2, 0)),
]
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


def layout(tiling: Tiling, connector: str = "linear", form: PictureFormat = FORM) -> PictureLayout:
    return PictureLayout(tiling, form, connector_class(connector).grid(form.side))


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=3), connector=st.sampled_from(["linear", "attention_pool"]))
@pytest.mark.parametrize("tiling", TILINGS, ids=repr)
def test_tokens_tiles_and_order_are_those_of_the_picture(tiling: Tiling, sizes: Any, connector: str) -> None:
    known = layout(tiling, connector)
    tiles = torch.cat([known.tensor(Image.new("RGB", size)) for size in sizes])
    assert tiles.shape == (sum(known.tiles(*size) for size in sizes), 3, 48, 48)
    made = connector_class(connector)(Widths(4, 4))
    made.specials = torch.nn.Parameter(torch.zeros(3, 4)) if tiling.specials else None
    embeddings = made(torch.zeros(len(tiles), 64, 4), known.orders(sizes)).flatten(0, -2)
    assert len(embeddings) == sum(known.tokens(*size) for size in sizes)
    order = np.concatenate([known.order(*size)[known.order(*size) >= 0] for size in sizes[:1]])
    assert len(set(order.tolist())) == len(order)
    assert order.max() < known.tiles(*sizes[0]) * known.tile_tokens


@settings(max_examples=40, deadline=None)
@given(width=st.integers(40, 400), height=st.integers(40, 400))
@pytest.mark.parametrize("tiling", [Anyres(), WIDE, Overlap(margins=(3, 1))], ids=repr)
def test_every_part_of_the_picture_is_read_once_and_in_its_place(tiling: Tiling, width: int, height: int) -> None:
    """The tower is one that says where in the picture a patch lies: red grows to the right, green downwards."""
    known = layout(tiling)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    picture = Image.fromarray(np.stack([across, down, np.full_like(across, 255)], axis=-1).astype(np.uint8))
    pixels = known.tensor(picture) * torch.tensor(FORM.std)[:, None, None] + torch.tensor(FORM.mean)[:, None, None]
    patches = pixels.unfold(2, 6, 6).unfold(3, 6, 6).mean((-1, -2)).flatten(2).transpose(1, 2).flatten(0, 1).numpy()
    order = known.order(width, height)
    lines = np.split(order, np.flatnonzero(order == NEWLINE))
    rows = [patches[line[line >= 0]] for line in lines[1 if isinstance(tiling, Anyres) else 8 :]]
    if isinstance(tiling, Anyres):
        rows = [patches[lines[0][64:]], *rows]
    # Padding has another blue.
    shown = [row[row[:, 2] > 0.97] for row in rows if (row[:, 2] > 0.97).any()]
    assert len({len(row) for row in shown}) == 1
    # The picture's parts are as far from each other as its patches are wide, from one end to the other.
    for steps in (*(row[:, 0] for row in shown), np.array([row[:, 1].mean() for row in shown])):
        apart = np.diff(steps)
        size = apart[1:-1].mean() if len(steps) > 3 else apart.mean() if len(steps) > 1 else 1.0
        assert apart.min(initial=1) > 0.8 * size - 0.01
        assert apart.max(initial=0) < 1.2 * size + 0.01
        assert steps[0] < 1.6 * size + 0.02
        assert steps[-1] > 1 - 1.6 * size - 0.02


@settings(max_examples=60, deadline=None)
@given(width=st.integers(9, 2000), height=st.integers(9, 2000))
def test_anyres_is_that_of_transformers_llava_next(width: int, height: int) -> None:
    known = layout(Anyres(), form=CLIP_336)
    pinpoints = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    vision = SimpleNamespace(image_size=336, patch_size=14)
    theirs = SimpleNamespace(config=SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints))
    tiles = known.tiles(width, height)
    features = torch.arange(tiles * 576.0).view(tiles, 576, 1)
    expected, _ = LlavaNextModel.pack_image_features(
        theirs, [features], torch.tensor([[height, width]]), "default", torch.tensor([-1.0])
    )
    if (expected[0][576:] >= 0).any():  # of a picture that is thinner than a patch nothing is left there
        assert known.order(width, height).tolist() == expected[0][:, 0].int().tolist()


def test_anyres_tiles_are_those_of_transformers_llava_next(pictures: list[Image.Image]) -> None:
    pinpoints = [[48, 96], [96, 48], [96, 96], [144, 48], [48, 144]]
    stock = LlavaNextImageProcessor(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, image_grid_pinpoints=pinpoints,
        image_mean=list(FORM.mean), image_std=list(FORM.std),
    )  # fmt: skip
    for picture in pictures:
        assert torch.equal(layout(Anyres()).tensor(picture), stock(picture, return_tensors="pt")["pixel_values"][0])


def test_published_numbers_of_tokens() -> None:
    assert layout(Square(), form=CLIP_336).tokens(640, 480) == 576
    # LLaVA-NeXT: at most 2,880 embeddings of five tiles, of which padding goes, and a newline for each row comes.
    assert layout(Anyres(), form=CLIP_336).tokens(1000, 1000) == 576 + 48 * 49
    # Molmo: 144 a crop; twelve crops of 4,000 x 3,000 pixels have 3 * 16 + 8 rows of 4 * 16 + 8 patches, in twos.
    molmo = layout(Overlap(), "attention_pool", CLIP_336)
    assert (molmo.tile_tokens, molmo.tiles(4000, 3000)) == (144, 13)
    assert molmo.tokens(4000, 3000) == (12 * 13 + 2) + (28 * 37 + 2)
    siglip = PictureFormat(384, 14, (0.5,) * 3, (0.5,) * 3)
    assert layout(Square(), "mean_pool_mlp", siglip).tokens(640, 480) == 182


def test_pad_keeps_the_shape_and_fills_with_the_mean_colour() -> None:
    pixels = layout(Pad()).tensor(Image.new("RGB", (90, 30), "white"))[0]
    assert pixels[:, :13].abs().max() < 0.02
    assert pixels[:, 35:].abs().max() < 0.02
    assert pixels[:, 19:29].min() > 1.8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tiling": "anyre"}, "there is no tiling 'anyre'; did you mean 'anyres'"),
        ({"tiling": {"grids": []}}, "give one of anyres, overlap, pad, square"),
        ({"tiling": {"name": "anyres", "grid": [[1, 2]]}}, "unknown key 'grid'; did you mean 'grids'"),
        ({"tiling": {"name": "pad", "colour": 1}}, "unknown key 'colour'; known keys here: none"),
        ({"tiling": {"name": "anyres", "grids": [[0, 2]]}}, "grids.0.0"),
    ],
)
def test_a_tiling_that_is_not_there_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings.model_validate({**given, "language": {"name": "x"}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tiling": "overlap"}, r"4 \+ 4 patches leave nothing of a tower that sees 8 x 8"),
        ({"tiling": {"name": "overlap", "margins": [1, 1]}, "connector": "mean_pool_mlp"}, "pools 8 to 4"),
    ],
)
def test_a_tiling_that_does_not_fit_the_tower_is_refused(given: dict[str, Any], message: str) -> None:
    made = ModelSettings.model_validate({**given, "language": {"name": "x"}})
    with pytest.raises(InputError, match=message):
        picture_layout(made)


def test_a_recipe_says_the_tiling_again() -> None:
    assert tiling_names() == ["anyres", "overlap", "pad", "square"]
    made = ModelSettings.model_validate({"tiling": {"name": "overlap", "crops": 3}, "language": {"name": "x"}})
    said = made.model_dump(mode="json")
    assert said["tiling"] == {"name": "overlap", "crops": 3, "margins": [4, 4]}
    assert ModelSettings.model_validate(said) == made
    assert ModelSettings.model_validate({"language": {"name": "x"}}).model_dump()["tiling"] == {"name": "square"}
