"""One step of the recipe's `train` list."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from models.clip import PACKAGED_MODEL, ResizeMode
from schemas.settings import Settings


class TrainStep(Settings):
    """Which parts learn, from what, how fast and how long. Steps run in order, each from the last one's weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="names the step's plan, log and checkpoint")
    objective: Literal["language", "contrastive"] = Field(
        "language", description="`language`: answer tokens; `contrastive`: a CLIP on pictures and captions"
    )
    learn: dict[str, float] = Field(
        description="part -> highest learning rate; parts not named, or at 0, stay as they are. "
        "Parts: vision, connector, language; for contrastive steps: clip"
    )
    kinds: list[str] | None = Field(None, description="conversation kinds that the step uses; all, where empty")
    epochs: float = Field(1, gt=0, description="passes over the conversations; a fraction at the end is a part of one")
    max_steps: int | None = Field(None, ge=1, description="ends the step after so many optimizer steps")
    packs_per_step: int = Field(8, ge=1, description="packs in one optimizer step, over all workers and accumulations")
    accumulation: int = Field(1, ge=1, description="forward passes that one worker's share of a step is cut into")
    model: str = Field(PACKAGED_MODEL, description="contrastive only: the OpenCLIP model that is trained")
    pretrained: str = Field("none", description="contrastive only: its weights at the begin, as select.clip names them")
    resize_mode: ResizeMode | None = Field(
        None, description="contrastive only: how pictures become square; the model's own where null"
    )
    batch: int = Field(256, ge=2, description="contrastive only: most pictures in a batch, which is one pack")
    augment: float = Field(
        0, ge=0, lt=1, description="contrastive only: pictures are cropped to a random area of at least 1 - this share"
    )
    warmup_fraction: float = Field(0.03, ge=0, le=1, description="share of the steps in which the rate rises linearly")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="the rate after warm-up falls to 0, or stays")
    weight_decay: float = Field(0, ge=0, description="AdamW's, on matrices only (not on biases and norms)")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's")
    eps: float = Field(1e-8, gt=0, description="AdamW's")
    clip_norm: float = Field(1.0, gt=0, description="the gradient's length is cut to this")
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the matrix products; weights are kept in fp32")
    checkpoint_every: int = Field(100, ge=1, description="optimizer steps between checkpoints")
    log_every: int = Field(10, ge=1, description="optimizer steps between log lines")
    cache_features: bool = Field(
        True, description="while the vision tower is frozen, compute each picture's features once (fp16, on disk)"
    )
    cache_gb: float = Field(16, gt=0, description="most GB of disk for those features; where they need more: no cache")

    @model_validator(mode="after")
    def _fits_objective(self) -> TrainStep:
        parts = {"clip"} if self.objective == "contrastive" else {"vision", "connector", "language"}
        for part, rate in self.learn.items():
            if part not in parts:
                raise ValueError(f"learn: '{part}' is no part of a {self.objective} step: {', '.join(sorted(parts))}")
            if rate < 0:
                raise ValueError(f"learn: the rate of '{part}' is negative")
        if not self.learned():
            raise ValueError("learn: no part has a rate above 0")
        standard = {name: type(self).model_fields[name].default for name in ("accumulation", "packs_per_step")}
        if self.objective == "contrastive" and any(getattr(self, name) != value for name, value in standard.items()):
            raise ValueError("a contrastive step's batch cannot be cut or joined: set `batch` alone")
        return self

    @property
    def global_packs(self) -> int:
        """Packs in one optimizer step. A contrastive batch is one pack."""
        return self.packs_per_step if self.objective == "language" else 1

    def learned(self) -> dict[str, float]:
        """The parts that learn, with their rates."""
        return {part: rate for part, rate in sorted(self.learn.items()) if rate > 0}
