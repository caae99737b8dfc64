"""Loading CLIP models: names, weights, preprocessing, vectors."""

import io

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from models.clip import ClipModel, ClipSettings, load_clip
from schemas.errors import InputError


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return load_clip("sluice-filter-64", "none")


def _picture(seed: int, size: tuple[int, int] = (80, 50)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    return Image.fromarray(noise)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(clip: ClipModel) -> None:
    pictures = [_picture(seed) for seed in range(5)]
    vectors = clip.encode_pictures(pictures)
    assert vectors.shape == (5, 256)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(clip.encode_pictures(pictures, batch_size=2), vectors)
    np.testing.assert_array_equal(clip.encode_pictures(pictures[3:]), vectors[3:])
    words = clip.encode_texts(["a cat", "two dogs " * 100, ""])
    np.testing.assert_array_equal(clip.encode_texts(["a cat"]), words[:1])
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    assert clip.encode_texts([]).shape == (0, 256)
    assert clip.encode_pictures([]).shape == (0, 256)


def test_pictures_come_as_bytes_and_in_any_mode(clip: ClipModel) -> None:
    picture = _picture(1)
    file = io.BytesIO()
    picture.save(file, "PNG")
    np.testing.assert_array_equal(clip.encode_pictures([file.getvalue()]), clip.encode_pictures([picture]))
    assert np.isfinite(clip.encode_pictures([picture.convert("L"), picture.convert("RGBA")])).all()


def test_the_packaged_model_squashes_and_others_keep_their_own_way(clip: ClipModel) -> None:
    wide = Image.new("RGB", (100, 50), "white")
    wide.paste("black", (0, 0, 25, 50))  # cropped away by a centre crop
    assert clip.image_size == 64
    assert clip.preprocess(wide)[0, 32, 4] < 0 < clip.preprocess(wide)[0, 32, 60]
    cropping = load_clip("sluice-filter-64", "none", resize_mode="shortest")
    assert cropping.preprocess(wide)[0, 32, 4] > 0


def test_fresh_weights_follow_the_seed(clip: ClipModel) -> None:
    text = clip.encode_texts(["a red kite"])
    np.testing.assert_array_equal(load_clip("sluice-filter-64", "none").encode_texts(["a red kite"]), text)
    assert np.abs(load_clip("sluice-filter-64", "none", seed=1).encode_texts(["a red kite"]) - text).max() > 1e-3


def test_weights_from_a_half_precision_file_fit_in_the_shipped_size(clip: ClipModel, tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in clip.model.state_dict().items()}, path)
    assert path.stat().st_size <= 24_000_000
    loaded = load_clip("sluice-filter-64", str(path))
    picture = _picture(3)
    np.testing.assert_allclose(loaded.encode_pictures([picture]), clip.encode_pictures([picture]), atol=5e-3)
    assert ClipSettings(pretrained=str(path)).weights_digest() != ClipSettings(pretrained="none").weights_digest()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="does not hold weights of sluice-filter-64"):
        load_clip("sluice-filter-64", str(path))


def test_bfloat16_is_close(clip: ClipModel) -> None:
    rough = load_clip("sluice-filter-64", "none", precision="bf16").encode_pictures([_picture(4)])
    assert rough.dtype == np.float32
    assert float((rough * clip.encode_pictures([_picture(4)])).sum()) > 0.99


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-33", "openai", "did you mean 'ViT-B-32'"),
        ("ViT-B-32", "laion2b_s34b_b79", "did you mean 'laion2b_s34b_b79k'"),
        ("ViT-B-32", "packaged", "no weights are packaged for 'ViT-B-32'"),
        ("sluice-filter-64", "nonsense.pt", "neither a tag of sluice-filter-64 nor a file"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(model: str, pretrained: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_clip(model, pretrained)
