"""A filter network of one's own (Data Filtering Networks, Fang et al. 2023): a CLIP trained on pairs that are trusted
scores those that are not.

The training is a run of its own in RUN/filter; see `pipelines.filter_network`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import Field

from models.clip import ClipModel, ClipSettings
from schemas.errors import SluiceError
from schemas.settings import Settings
from stages.run_folder import RunFolder
from stages.source.settings import SourceSettings
from stages.store import fetched
from stages.train.settings import TrainStep
from stages.train.weights import STAGE, final_file

if TYPE_CHECKING:
    from stages.select.settings import ClipFilterSettings

#: The run folder of the training, in the run folder that it scores for.
FOLDER = "filter"
#: The training's one step.
STEP = "contrast"


class FilterTrainSettings(Settings):
    """How the network that scores is trained first, and on what."""

    source: SourceSettings = Field(description="the trusted pairs, with the keys of the section `source`")
    rate: float = Field(
        gt=0,
        description="highest learning rate: about 5.0e-4 for the packaged network, 1.0e-3 for one without weights, "
        "1.0e-5 for a large one with weights",
    )
    epochs: float = Field(10, gt=0, description="passes over the trusted pairs")
    batch: int = Field(256, ge=2, description="most pairs in an optimizer step; each is told from all others")
    augment: float = Field(
        0.3, ge=0, lt=1, description="pictures are cropped to a random area of at least 1 - this share"
    )
    weight_decay: float = Field(0.1, ge=0, description="AdamW's, on matrices only (not on biases and norms)")
    holdout: float = Field(
        0.05, ge=0, lt=1, description="share of the trusted pairs that is kept back, to say what training brought"
    )
    checkpoint_every: int = Field(100, ge=1, description="optimizer steps between checkpoints")

    def step(self, clip: ClipSettings) -> TrainStep:
        """The training of `clip`, from the weights that it names. Warm-up, betas and eps are those of CLIP's paper."""
        chosen = self.model_dump(include={"epochs", "batch", "augment", "weight_decay", "checkpoint_every"})
        return TrainStep(
            name=STEP,
            objective="contrastive",
            model=clip.model,
            pretrained=clip.pretrained,
            resize_mode=clip.resize_mode,
            learn={"clip": self.rate},
            betas=(0.9, 0.98),
            eps=1e-6,
            warmup_fraction=0.1,
            **chosen,
        )


def filter_run(run: RunFolder) -> RunFolder:
    """The run folder in which `run` trains its filter network."""
    return RunFolder(run.path(FOLDER))


def scoring_clip(run: RunFolder, clip: ClipFilterSettings) -> ClipFilterSettings:
    """The model that scores in `run`: `clip`, with the weights that `run` trained where `clip.train` asks for it.

    The weights are a file on this machine's disk; of a run in a store, a copy of it.

    Raises:
        SluiceError: they are not trained yet.
    """
    if clip.train is None:
        return clip
    inner = filter_run(run)
    weights, manifest = inner.path(final_file(STEP)), inner.manifest(STAGE, STEP)
    if manifest is None or not weights.exists():
        raise SluiceError(f"the filter network is not trained yet ({weights} is not there): run the filter stage first")
    if not inner.is_local:
        weights = _local_copy(weights, inner.local_path(f"{manifest['outputs'][final_file(STEP)]}.safetensors"))
    return clip.model_copy(update={"pretrained": str(weights)})


def caption_auroc(
    clip: ClipModel, pictures: Sequence[bytes | Image.Image], captions: Sequence[str], batch_size: int = 128
) -> float:
    """The chance that a picture's own caption scores above the next picture's caption (see `auroc`).

    Args:
        pictures: encoded files or PIL pictures.
        captions: one for each picture.
    """
    seen, said = clip.encode_pictures(pictures, batch_size), clip.encode_texts(captions, batch_size)
    wrong = np.einsum("nd,nd->n", seen, np.roll(said, 1, axis=0))
    return auroc(np.einsum("nd,nd->n", seen, said), wrong)


def auroc(right: np.ndarray, wrong: np.ndarray) -> float:
    """Share of pairs (right, wrong) in which the right one scores higher; ties count half (Hanley and McNeil 1982)."""
    ordered = np.sort(wrong)
    below, not_above = np.searchsorted(ordered, right), np.searchsorted(ordered, right, side="right")
    return float((below + not_above).mean() / 2 / len(wrong))


def _local_copy(weights: Path, copy: Path) -> Path:
    """The weights on this machine's disk, fetched once; several processes may come at the same time."""
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}")
        with fetched(weights) as file:
            shutil.copyfile(file, temporary)
        os.replace(temporary, copy)
    return copy
