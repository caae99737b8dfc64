"""Quality heads: small networks that judge a picture by its CLIP vector alone (aesthetic, watermark, unsafe).

The heads that LAION published load as they are, as PyTorch files: its aesthetic predictors, V1 (one linear layer,
`sa_0_4_vit_l_14_linear.pth` and its like) and V2 (Schuhmann's `sac+logos+ava1-l14-linearMSE.pth`, and its `reluMSE`
form), and the safety heads of its CLIP-based-NSFW-Detector: that for ViT-H-14 (`h14_nsfw.pth`), and those for ViT-L-14
and ViT-B-32 as converted from Keras (keys `norm.mean`, `norm.variance`, `linear_1.weight` and so on). Any other chain
of linear layers does too.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from models.compat import use_cores
from schemas.errors import InputError

Activation = Literal["none", "relu"]
Output = Literal["none", "sigmoid"]

_BATCH = 65_536
_KEY = re.compile(r"(?P<prefix>.*?)(?P<number>\d*)\.?(?P<kind>weight|bias)")
#: The aesthetic predictor V2: its layers' places and widths. Between them lie dropouts, which do nothing here.
_AESTHETIC_V2 = ((0, 2, 4, 6, 7), (1024, 128, 64, 16, 1))

#: weight [out, in] and bias [out], float64.
_Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Head:
    """A head that is ready to score.

    Attributes:
        layers: weight [out, in] and bias [out] of each layer, float32, with ReLUs between them; the last has `out` 1.
        sigmoid: makes a probability of the last layer's number.
    """

    layers: list[_Layer]
    sigmoid: bool

    @property
    def dim(self) -> int:
        """Length of the vectors that it judges."""
        return self.layers[0][0].shape[1]

    @torch.inference_mode()
    def score(self, vectors: np.ndarray) -> np.ndarray:
        """The score of each vector, float32 [n]; NaN where the vector is zero or not finite.

        Args:
            vectors: floating [n, dim], of any length: they are brought to length 1, as heads are trained on.
        """
        use_cores()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        (first, *rest) = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]
        scores = torch.empty(len(vectors))
        for start in range(0, len(vectors), _BATCH):
            batch = torch.from_numpy(np.ascontiguousarray(vectors[start : start + _BATCH])).to(device).float()
            length = torch.linalg.vector_norm(batch, dim=1, keepdim=True)
            found = torch.nn.functional.linear(batch / length, *first)
            for layer in rest:
                found = torch.nn.functional.linear(found.relu_(), *layer)
            found = found[:, 0].sigmoid() if self.sigmoid else found[:, 0]
            good = length[:, 0].isfinite() & (length[:, 0] > 0)
            scores[start : start + _BATCH] = found.where(good, torch.nan)
        return scores.numpy()


def load_head(content: bytes, where: str, activation: Activation | None = None, output: Output | None = None) -> Head:
    """Reads a head from a file's content.

    Args:
        content: a state dict of linear layers, one after the other, as torch.save or safetensors writes it. No code in
            it is run.
        where: names the file in messages; a .safetensors file by its end.
        activation: what lies between the layers. Where None, the layers' places in a `torch.nn.Sequential` say it: none
            between neighbours, a ReLU and a dropout where two places lie between; one place alone could be either.
        output: what is made of the last layer's number. Where None, a sigmoid if Keras normalized the vectors first.

    Raises:
        InputError: the content is broken, is no chain of linear layers that ends in one number, or does not say what
            lies between them.
    """
    weights = _tensors(content, where)
    normalization = _take_normalization(weights)
    places, chain = _chain(weights, where)
    relus = _relus(places, chain, activation, normalization is not None, where)
    if normalization is not None:
        (mean, deviation), (weight, bias) = normalization, chain[0]
        if not len(mean) == len(deviation) == weight.shape[1]:
            raise InputError(f"{where}: its normalization is not for the {weight.shape[1]} numbers of its first layer")
        chain[0] = (weight / deviation, bias - weight @ (mean / deviation))
    sigmoid = normalization is not None if output is None else output == "sigmoid"
    return Head([(weight.float(), bias.float()) for weight, bias in _folded(chain, relus)], sigmoid)


def _tensors(content: bytes, where: str) -> dict[str, torch.Tensor]:
    """The file's tensors by name, float64."""
    try:
        found: Any
        if where.endswith(".safetensors"):
            found = load_safetensors(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, TypeError, LookupError, EOFError, pickle.UnpicklingError, SafetensorError):
        raise InputError(
            f"{where} cannot be read as tensors; a head is a PyTorch state dict (.pth, .pt) or a .safetensors file, "
            "and a Keras model's weights have to be saved as one"
        ) from None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise InputError(f"{where} holds no state dict; save the head as torch.save(head.state_dict(), FILE)")
    return {str(name): value.double() for name, value in found.items()}


def _take_normalization(weights: dict[str, torch.Tensor]) -> _Layer | None:
    """Takes the mean and the deviation, by which Keras normalizes vectors first, out of `weights`."""
    ending = {name.rpartition(".")[2]: name for name in weights}
    if "mean" not in ending or not {"variance", "std"} & set(ending):
        return None
    if "category_mapper" in ending:  # ones: it passes numbers on
        weights.pop(ending["category_mapper"])
    mean = weights.pop(ending["mean"]).ravel()
    if "std" in ending:
        return mean, weights.pop(ending["std"]).ravel()
    return mean, weights.pop(ending["variance"]).ravel().sqrt()


def _chain(weights: dict[str, torch.Tensor], where: str) -> tuple[list[int] | None, list[_Layer]]:
    """The layers in order, with their places in a Sequential where their names are such places."""
    layers: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, value in weights.items():
        key = _KEY.fullmatch(name)
        if key is None or value.ndim != (2 if key["kind"] == "weight" else 1):
            raise InputError(f"{where} is no chain of linear layers: it holds {name} {list(value.shape)}")
        layers.setdefault((key["prefix"], key["number"]), {})[key["kind"]] = value
    prefixes = {prefix for prefix, _ in layers}
    names = list(layers)
    if len(prefixes) == 1 and all(number for _, number in layers):
        names.sort(key=lambda name: int(name[1]))
    chain: list[_Layer] = []
    for prefix, number in names:
        layer = layers[prefix, number]
        weight, bias = layer.get("weight"), layer.get("bias")
        if weight is None or (bias is not None and len(bias) != len(weight)):
            raise InputError(f"{where}: layer {prefix}{number} has no weight, or a bias of another width")
        chain.append((weight, torch.zeros(len(weight)).double() if bias is None else bias))
    if not chain or any(first.shape[0] != second.shape[1] for (first, _), (second, _) in pairwise(chain)):
        raise InputError(f"{where} is no chain of linear layers: one does not take what the one before it gives")
    if len(chain[-1][0]) != 1:
        raise InputError(f"{where} gives {len(chain[-1][0])} numbers for a picture; a head gives one")
    sequential = len(prefixes) == 1 and (min(prefixes) == "" or min(prefixes).endswith("."))
    return ([int(number) for _, number in names] if sequential and all(n for _, n in names) else None), chain


def _relus(
    places: list[int] | None, chain: list[_Layer], asked: Activation | None, keras: bool, where: str
) -> list[bool]:
    """Whether a ReLU lies behind each layer but the last."""
    if asked is not None or keras or len(chain) == 1:
        return [asked == "relu" or (asked is None and keras)] * (len(chain) - 1)
    if places is not None:
        if (tuple(places), tuple(len(weight) for weight, _ in chain)) == _AESTHETIC_V2:
            return [False] * (len(chain) - 1)
        gaps = [second - first for first, second in pairwise(places)]
        if max(gaps) > 2 or set(gaps) == {1}:
            return [gap > 1 for gap in gaps]
    raise InputError(
        f"{where} does not say what lies between its layers: give 'activation: relu' or 'activation: none'"
    )


def _folded(chain: list[_Layer], relus: list[bool]) -> Iterator[_Layer]:
    """Makes one layer of those with nothing between them, which is the same function and takes less time."""
    weight, bias = chain[0]
    for (next_weight, next_bias), relu in zip(chain[1:], relus, strict=True):
        if relu:
            yield weight, bias
            weight, bias = next_weight, next_bias
        else:
            weight, bias = next_weight @ weight, next_weight @ bias + next_bias
    yield weight, bias
