"""Drops pictures by what quality heads say of their CLIP vectors (see `models.heads`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, model_validator

from models.heads import Activation, Head, Output, load_head
from schemas.errors import InputError
from schemas.identity import digest_bytes
from schemas.settings import Settings
from schemas.vocabulary import Reason
from stages.select.vectors import stored_vectors
from stages.store import open_path

if TYPE_CHECKING:
    from stages.select.candidates import Candidates

_REASONS = {"aesthetic": Reason.AESTHETIC, "watermark": Reason.WATERMARK, "unsafe": Reason.UNSAFE}


class HeadKeepSettings(Settings):
    """Which scores pass: one of the three."""

    min: float | None = Field(default=None, description="score at least")
    max: float | None = Field(default=None, description="score at most")
    top: float | None = Field(
        default=None, gt=0, le=1, description="share that is kept, best first: highest aesthetic, lowest of the others"
    )

    @model_validator(mode="after")
    def _one_of_three(self) -> HeadKeepSettings:
        if len(self.model_dump(exclude_none=True)) != 1:
            raise ValueError("give one of 'min', 'max' (scores) and 'top' (a share)")
        return self


class HeadSettings(Settings):
    """A head: where it lies, whose vectors it judges, and which of its scores pass."""

    file: str = Field(description="a .pth, .pt or .safetensors file: a state dict of linear layers in a chain")
    kind: Literal["aesthetic", "watermark", "unsafe"] = Field(description="what it judges: the reason for a drop")
    model: str | None = Field(
        default=None,
        description="a name of select.models: whose vectors it judges; those of select.clip where null",
    )
    activation: Activation | None = Field(
        default=None, description="none or relu: what lies between its layers, where the file does not say"
    )
    output: Output | None = Field(
        default=None, description="none or sigmoid: what is made of its number; null: what its published form has"
    )
    keep: HeadKeepSettings | None = Field(
        default=None, description="{min: score}, {max: score} or {top: share}; null: scored, and all are kept"
    )


def head_digest(settings: HeadSettings) -> str:
    """A digest of the head's file; a new file gives new scores.

    Raises:
        InputError: it cannot be read.
    """
    return digest_bytes(_content(settings.file))


def read_head(settings: HeadSettings, name: str, dim: int | None) -> Head:
    """Reads the head called `name` in the recipe.

    Args:
        dim: length of the vectors that it is to judge; None where that is not known yet.

    Raises:
        InputError: the file is missing, broken, or no head (see `models.heads.load_head`), or it is for vectors of
            another length.
    """
    where = f"select.heads.{name}: {settings.file}"
    head = load_head(_content(settings.file), where, settings.activation, settings.output)
    if dim is not None and head.dim != dim:
        of = f"select.models.{settings.model}" if settings.model else "select.clip"
        raise InputError(
            f"{where} is for vectors of {head.dim} numbers, those of {of} have {dim}; put the CLIP model that the head "
            "was made for into select.models, and its name into the head's 'model'"
        )
    return head


def ask_heads(rows: Candidates, heads: Mapping[str, HeadSettings]) -> None:
    """Scores every picture with every head, and drops what a head's threshold does not keep.

    The measure of the head called NAME is `head_NAME`. The share of `top` is one of all pictures, whatever was decided
    of them. A vector that is not a number, or zero, is a reason of its own.

    Raises:
        InputError: see `read_head`.
    """
    for name, settings in heads.items():
        measure = f"head_{name}"
        vectors, place = stored_vectors(rows, settings.model or "")
        scores = read_head(settings, name, vectors.shape[1]).score(vectors)
        rows.measure(measure, np.append(scores, np.float32(np.nan))[place])
        keep = settings.keep
        if keep is None:
            continue
        rows.drop(np.isnan(rows.measures[measure]), Reason.BAD_VECTOR)
        low_is_good = keep.max is not None or (keep.top is not None and settings.kind != "aesthetic")
        bound = keep.max if keep.min is None else keep.min
        if keep.top is not None:
            bound = _top(rows.measures[measure], keep.top, low_is_good)
        if bound is not None:
            form = next(iter(keep.model_dump(exclude_none=True)))
            keeps: Literal["at_least", "at_most"] = "at_most" if low_is_good else "at_least"
            rows.ask(f"heads.{name}.keep.{form}", measure, keeps, bound, _REASONS[settings.kind])


def _top(scores: np.ndarray, share: float, low_is_good: bool) -> float | None:
    """The worst score of the best `share` of all; None where there is no score."""
    from stages.select.score import threshold
    from stages.select.settings import KeepSettings

    bound = threshold(-scores if low_is_good else scores, KeepSettings(top=share))
    return -bound if low_is_good and bound is not None else bound


def _content(file: str) -> bytes:
    try:
        return open_path(file).read_bytes()
    except OSError as error:
        raise InputError(f"select.heads: cannot read {file}: {error.strerror or error}") from error
