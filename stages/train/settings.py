"""One step of the recipe's `train` list."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from models.clip import PACKAGED_MODEL, ResizeMode
from schemas.settings import Settings
from stages.train.lora import LoraSettings


class PartRate(Settings):
    """How fast one part learns, where a number alone does not say it."""

    rate: float = Field(description="highest learning rate")
    warmup_steps: int | None = Field(
        None, ge=0, description="optimizer steps in which this part's rate rises; the step's own warm-up where null"
    )


def _form(value: Any) -> str:
    return "section" if isinstance(value, dict | PartRate) else "number"


#: A learning rate, or a section with it.
Rate = Annotated[Annotated[float, Tag("number")] | Annotated[PartRate, Tag("section")], Discriminator(_form)]


class TrainStep(Settings):
    """Which parts learn, from what, how fast and how long. Steps run in order, each from the last one's weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="names the step's plan, log and checkpoint")
    objective: Literal["language", "contrastive"] = Field(
        "language", description="`language`: answer tokens; `contrastive`: a CLIP on pictures and captions"
    )
    learn: dict[str, Rate] = Field(
        description="part -> highest learning rate, or {rate, warmup_steps}; parts not named, or at 0, stay as they "
        "are. Parts: vision, connector, language; for contrastive steps: clip"
    )
    lora: LoraSettings | None = Field(
        None, description="of the language model only adapters learn, at its rate, and are merged into it at the end"
    )
    kinds: list[str] | None = Field(None, description="conversation kinds that the step uses; all, where empty")
    mixture: dict[str, float] | None = Field(
        None,
        description="in place of `kinds`: component -> weight, its share of the tokens once divided by their sum. "
        "Components: kinds of conversations about pictures, and `text_only`, all conversations about none",
    )
    repeat: bool = Field(
        True,
        description="a component of the mixture that runs out begins again; where false, it ends after `epochs` "
        "passes and the others go on by their weights",
    )
    epochs: float = Field(
        1,
        gt=0,
        description="passes over the conversations; a fraction at the end is a part of one. "
        "Of a mixture that repeats: so many times its conversations' tokens",
    )
    tokens: int | None = Field(
        None,
        ge=1,
        description="language only: ends the step with the pack that reaches so many tokens, instead of after `epochs`",
    )
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
    word_loss: float = Field(
        0,
        ge=0,
        description="contrastive only: weight of a second loss, by which single patches learn to tell the words of "
        "their caption from those of others; for towers of OpenCLIP's own",
    )
    warmup_fraction: float = Field(0.03, ge=0, le=1, description="share of the steps in which the rate rises linearly")
    warmup_steps: int | None = Field(None, ge=0, description="optimizer steps of warm-up, instead of warmup_fraction")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="the rate after warm-up falls to min_rate, or stays"
    )
    min_rate: float = Field(0, ge=0, le=1, description="share of the highest rate that cosine ends at")
    weight_decay: float = Field(0, ge=0, description="AdamW's, on matrices only (not on biases and norms)")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's")
    eps: float = Field(1e-8, gt=0, description="AdamW's")
    clip_norm: float = Field(1.0, gt=0, description="the gradient's length is cut to this")
    z_loss: float = Field(
        0, ge=0, description="weight of log(Z)^2 on supervised tokens (PaLM's z-loss), which is part of the logged loss"
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of the matrix products; weights are kept in fp32")
    checkpoint_every: int = Field(100, ge=1, description="optimizer steps between checkpoints")
    keep: int = Field(2, ge=1, description="last checkpoints that are kept")
    keep_best: bool = Field(True, description="also keep the state with the lowest validation loss")
    validate_every: int | None = Field(
        None, ge=0, description="optimizer steps between validations; at the step's end alone, where null or 0"
    )
    validate_samples: int = Field(
        200, ge=0, description="most held-out conversations whose loss a validation measures; 0: none"
    )
    log_every: int = Field(10, ge=1, description="optimizer steps between log lines")
    cache_features: bool = Field(
        True, description="while the vision tower is frozen, compute each picture's features once (fp16, on disk)"
    )
    cache_gb: float = Field(16, gt=0, description="most GB of disk for those features; where they need more: no cache")

    @model_validator(mode="after")
    def _fits_objective(self) -> TrainStep:
        parts = {"clip"} if self.objective == "contrastive" else {"vision", "connector", "language"}
        for part, given in self.learn.items():
            if part not in parts:
                raise ValueError(f"learn: '{part}' is no part of a {self.objective} step: {', '.join(sorted(parts))}")
            if not 0 <= _rate(given) < math.inf:
                raise ValueError(f"learn: the rate of '{part}' must be 0 or more")
        if not self.learned():
            raise ValueError("learn: no part has a rate above 0")
        if self.mixture is not None:
            self._check_mixture(self.mixture)
        if self.objective == "contrastive" and self.tokens is not None:
            raise ValueError("tokens: a contrastive step has none to count; set `epochs` or `max_steps`")
        if self.lora is not None and "language" not in self.learned():
            raise ValueError("lora: adapters learn at the rate of `language`, which learn does not give")
        if self.objective == "contrastive" and self._is_set("accumulation", "packs_per_step"):
            raise ValueError("a contrastive step's batch cannot be cut or joined: set `batch` alone")
        if self.objective == "contrastive" and self._is_set("z_loss"):
            raise ValueError("z_loss: a contrastive step has no tokens; leave it out")
        if self.objective == "language" and self._is_set("word_loss"):
            raise ValueError("word_loss: a language step learns words anyway; leave it out")
        if self.warmup_steps is not None and self._is_set("warmup_fraction"):
            raise ValueError("give either warmup_steps or warmup_fraction")
        if self.schedule == "constant" and self._is_set("min_rate"):
            raise ValueError("min_rate: a constant rate does not fall; set schedule: cosine")
        return self

    def _is_set(self, *names: str) -> bool:
        """Whether one of these has another value than its default. A resolved recipe writes all defaults out."""
        return any(getattr(self, name) != type(self).model_fields[name].default for name in names)

    def _check_mixture(self, mixture: dict[str, float]) -> None:
        if self.objective == "contrastive":
            raise ValueError("mixture: only a language step has one")
        if self.kinds is not None:
            raise ValueError("mixture: it names the kinds already: leave `kinds` out")
        if not mixture:
            raise ValueError("mixture: it names no component; leave it out to use all kinds as they are")
        for name, weight in mixture.items():
            if not 0 < weight < math.inf:
                raise ValueError(f"mixture: the weight of '{name}' must be a number above 0")

    @property
    def global_packs(self) -> int:
        """Packs in one optimizer step. A contrastive batch is one pack."""
        return self.packs_per_step if self.objective == "language" else 1

    def learned(self) -> dict[str, float]:
        """The parts that learn, with their rates."""
        return {part: _rate(given) for part, given in sorted(self.learn.items()) if _rate(given) > 0}

    def needs_total(self) -> bool:
        """Whether the rates depend on the number of optimizer steps."""
        return self.schedule != "constant" or any(
            self.warmup(part, 1) for part in self.learned() if not self.warmup(part, 0)
        )

    def warmup(self, part: str, total: int) -> int:
        """Optimizer steps, of `total`, in which the rate of `part` rises."""
        given = self.learn[part]
        if isinstance(given, PartRate) and given.warmup_steps is not None:
            return given.warmup_steps
        return math.ceil(total * self.warmup_fraction) if self.warmup_steps is None else self.warmup_steps


def _rate(given: float | PartRate) -> float:
    return given.rate if isinstance(given, PartRate) else given
