"""Quality heads: the published shapes, chains in general, and what select makes of their scores."""

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save as save_safetensors
from torch import nn

from models.heads import load_head
from schemas.errors import InputError
from stages.select.candidates import Candidates
from stages.select.heads import HeadSettings, ask_heads, read_head


def _pth(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _unit(count: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(dim).normal(size=(count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class _Layers(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class _Normalization(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.randn(dim) * 0.01)
        self.variance = nn.Buffer(torch.rand(dim) * 0.001 + 0.0005)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self.mean) / self.variance.sqrt()


class _SafetyL14(nn.Module):
    """LAION's safety head for ViT-L-14 as converted from Keras."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = _Normalization(768)
        self.linear_1, self.linear_2 = nn.Linear(768, 64), nn.Linear(64, 512)
        self.linear_3, self.linear_4 = nn.Linear(512, 256), nn.Linear(256, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.linear_1(self.norm(x)).relu()
        return self.linear_4(self.linear_3(self.linear_2(x).relu()).relu()).sigmoid()


def _chain(widths: tuple[int, ...], between: list[list[nn.Module]]) -> _Layers:
    layers: list[nn.Module] = []
    for number, (wide, narrow) in enumerate(pairwise(widths)):
        layers += [nn.Linear(wide, narrow), *(between[number] if number < len(between) else [])]
    return _Layers(*layers)


_RELU = [nn.ReLU(), nn.Dropout(0.2)]
_V2 = (768, 1024, 128, 64, 16, 1)
PUBLISHED: dict[str, Callable[[], nn.Module]] = {
    "aesthetic V1, ViT-L-14": lambda: nn.Linear(768, 1),
    "aesthetic V1, ViT-B-32": lambda: nn.Linear(512, 1),
    "aesthetic V2": lambda: _chain(_V2, [[nn.Dropout(0.2)], [nn.Dropout(0.2)], [nn.Dropout(0.1)]]),
    "aesthetic V2, reluMSE": lambda: _chain(_V2, [_RELU, _RELU, _RELU, [nn.ReLU()]]),
    "safety, ViT-H-14": lambda: _chain((1024, 1024, 2048, 1024, 256, 128, 16, 1), [_RELU] * 5),
    "safety, ViT-L-14": _SafetyL14,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_heads_load_as_they_are(name: str) -> None:
    torch.manual_seed(0)
    network = PUBLISHED[name]().eval()
    state = network.state_dict()
    dim = next(value for key, value in state.items() if key.endswith("weight")).shape[1]
    vectors = _unit(33, dim)
    with torch.no_grad():
        expected = network(torch.from_numpy(vectors))[:, 0].numpy()
    for content, file in ((_pth(state), "h.pth"), (save_safetensors(state), "h.safetensors")):
        head = load_head(content, file)
        assert head.dim == dim
        np.testing.assert_allclose(head.score(vectors), expected, rtol=1e-4, atol=2e-5)
    assert np.ptp(expected) > 1e-4


def test_layers_with_nothing_between_become_one() -> None:
    head = load_head(_pth(PUBLISHED["aesthetic V2"]().state_dict()), "h.pth")
    assert [tuple(weight.shape) for weight, _ in head.layers] == [(1, 768)]
    assert len(load_head(_pth(PUBLISHED["safety, ViT-H-14"]().state_dict()), "h.pth").layers) == 6


def test_vectors_of_any_length_score_and_those_that_are_none_do_not() -> None:
    head = load_head(_pth(nn.Linear(8, 1).state_dict()), "h.pth")
    vectors = _unit(4, 8)
    expected = head.score(vectors)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(head.score(vectors * 3), expected, rtol=1e-5)
    broken = vectors.astype(np.float16)
    broken[1], broken[2, 3], broken[3, 0] = 0, np.nan, np.inf
    assert np.isnan(head.score(broken)).tolist() == [False, True, True, True]
    assert head.score(vectors[:0]).shape == (0,)


def test_a_head_that_does_not_say_what_lies_between_asks_for_it() -> None:
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    content, vectors = _pth(network.state_dict()), _unit(50, 8)
    with pytest.raises(InputError, match="what lies between its layers: give 'activation: relu'"):
        load_head(content, "h.pth")
    with torch.no_grad():
        expected = network(torch.from_numpy(vectors))[:, 0].numpy()
    np.testing.assert_allclose(load_head(content, "h.pth", "relu").score(vectors), expected, atol=1e-5)
    assert np.abs(load_head(content, "h.pth", "none").score(vectors) - expected).max() > 1e-3
    made_sure = load_head(content, "h.pth", "relu", "sigmoid").score(vectors)
    np.testing.assert_allclose(made_sure, 1 / (1 + np.exp(-expected)), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "file", "message"),
    [
        (b"not a head", "h.pth", "cannot be read as tensors"),
        (b"", "h.safetensors", "cannot be read as tensors"),
        (_pth(nn.Linear(8, 1).state_dict())[:-200], "h.pth", "cannot be read as tensors"),
        (_pth({"weight": 1.0}), "h.pth", "holds no state dict"),  # type: ignore[dict-item]
        (_pth(nn.Linear(8, 5).state_dict()), "h.pth", "gives 5 numbers for a picture"),
        (_pth(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(4, 1)).state_dict()), "h.pth", "no chain of linear layers"),
        (_pth({"0.weight": torch.ones(4, 8), "1.weight": torch.ones(1, 5)}), "h.pth", "does not take what the one"),
        (_pth({"bias": torch.ones(1)}), "h.pth", "has no weight"),
        (_pth({}), "h.pth", "no chain of linear layers"),
    ],
)
def test_a_file_that_is_no_head_is_refused(content: bytes, file: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_head(content, file)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "harm",)

    with pytest.raises(InputError, match="cannot be read as tensors"):
        load_head(_pth({"weight": Harmful()}), "h.pth")  # type: ignore[dict-item]
    assert not (tmp_path / "harm").exists()


def test_a_wrong_width_and_a_missing_file_are_named(tmp_path: Path) -> None:
    file = tmp_path / "v1.pth"
    file.write_bytes(_pth(nn.Linear(768, 1).state_dict()))
    settings = HeadSettings(file=str(file), kind="aesthetic")
    assert read_head(settings, "beauty", 768).dim == 768
    with pytest.raises(InputError, match=r"select.heads.beauty: .*v1.pth is for vectors of 768 numbers, those of "
                                         r"select.clip have 512"):  # fmt: skip
        read_head(settings, "beauty", 512)
    with pytest.raises(InputError, match="cannot read .*none.pth"):
        read_head(HeadSettings(file=str(tmp_path / "none.pth"), kind="unsafe"), "safe", None)


@pytest.mark.parametrize("keep", [{}, {"min": 1, "max": 2}, {"top": 0}, {"top": 1.5}])
def test_a_threshold_is_one_of_three(keep: dict) -> None:
    with pytest.raises(ValidationError):
        HeadSettings.model_validate({"file": "h.pth", "kind": "aesthetic", "keep": keep})


def _rows(values: list[float]) -> Candidates:
    """Rows whose first number decides; both models have the same vectors."""
    ids = [f"{row:032x}" for row in range(len(values))]
    samples = pa.table({"sample_id": ids, "row": range(len(values)), "reason": pa.nulls(len(values), pa.string())})
    vectors = np.stack([np.array(values), np.sqrt(1 - np.array(values) ** 2)], axis=1).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2)
    table = pa.table({"sample_id": ids, "clip_score": pa.array([0.5] * len(ids), pa.float32()), "vector": column})
    return Candidates.of(samples, {"": table, "other": table.slice(0, len(ids))})


def _head(folder: Path, **settings: Any) -> HeadSettings:
    file = folder / "first.safetensors"
    file.write_bytes(save_safetensors({"weight": torch.tensor([[1.0, 0.0]])}))
    return HeadSettings.model_validate({"file": str(file), **settings})


def test_each_kind_drops_with_its_reason_and_best_means_low_where_it_should(tmp_path: Path) -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    cases: list[tuple[dict[str, Any], str, list[int], str | None]] = [
        ({"kind": "aesthetic", "keep": {"min": 0.25}}, "aesthetic", [0, 1], "at_least"),
        ({"kind": "aesthetic", "keep": {"top": 0.4}}, "aesthetic", [0, 1, 2], "at_least"),
        ({"kind": "watermark", "keep": {"max": 0.35}, "model": "other"}, "watermark", [3, 4], "at_most"),
        ({"kind": "unsafe", "keep": {"top": 0.4}}, "unsafe", [2, 3, 4], "at_most"),
        ({"kind": "unsafe"}, "unsafe", [], None),
    ]
    for settings, reason, dropped, keeps in cases:
        rows = _rows(values)
        ask_heads(rows, {"mine": _head(tmp_path, **settings)})
        assert [row for row, said in enumerate(rows.verdicts.reason) if said == reason] == dropped
        assert rows.alive().sum() == len(values) - len(dropped)
        np.testing.assert_allclose(rows.measures["head_mine"], values, atol=1e-3)
        assert [(asked.keeps, asked.dropped) for asked in rows.thresholds] == ([(keeps, len(dropped))] if keeps else [])
        if keeps:
            assert rows.thresholds[0].name.startswith("heads.mine.keep.")


def test_a_vector_that_is_not_a_number_has_a_reason_of_its_own(tmp_path: Path) -> None:
    rows = _rows([0.1, float("nan"), 0.5])
    ask_heads(rows, {"mine": _head(tmp_path, kind="aesthetic", keep={"top": 0.5})})
    assert rows.verdicts.reason.tolist() == ["aesthetic", "bad_vector", None]
