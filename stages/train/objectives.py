"""What a step minimises: a vision-language model's loss on answer tokens, or a CLIP's on picture-caption pairs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.nn import functional

from models.chat import NO_LOSS
from models.clip import ClipModel
from models.full import VisionLanguageModel
from models.words import WordDetector
from schemas.errors import SluiceError
from stages.feed.batches import Batch, PairBatch
from stages.train.features import FeatureStore
from stages.train.sharding import is_sharded

B = TypeVar("B", Batch, PairBatch)


class Objective(ABC, Generic[B]):
    """A model with its loss.

    Args:
        parts: the model's parts by the names that `TrainStep.learn` uses.
        learn: the parts that learn. All others are frozen and put in eval mode.
        precision: fp32, or bf16 for autocast matrix products.

    Attributes:
        sharded: each rank holds a part of the model, so that all must run it together, batch by batch.
    """

    def __init__(self, parts: dict[str, nn.Module], learn: dict[str, float], precision: str) -> None:
        self.parts, self.learn, self.precision = parts, learn, precision
        for name, part in parts.items():
            part.train(name in learn)
            if name not in learn:
                part.requires_grad_(False)
        self.sharded = any(is_sharded(module) for part in parts.values() for module in part.modules())
        self.device = next(parameter.device for part in parts.values() for parameter in part.parameters())

    def parameters(self) -> dict[str, dict[str, nn.Parameter]]:
        """Part -> name -> the parameters that learn."""
        return {
            part: {name: value for name, value in self.parts[part].named_parameters() if value.requires_grad}
            for part in sorted(self.learn)
        }

    def loss(self, batch: B) -> torch.Tensor:
        """The loss summed over what `Batch.divisor` counts, as a float32 scalar with a gradient."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self._loss(batch)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Within it `loss` is the bare one: nothing learns, no dropout, no z-loss."""
        training = {name: part.training for name, part in self.parts.items()}
        for part in self.parts.values():
            part.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for name, part in self.parts.items():
                part.train(training[name])

    @abstractmethod
    def _loss(self, batch: B) -> torch.Tensor: ...

    def after_update(self) -> None:
        """Called after every optimizer step."""


class LanguageObjective(Objective[Batch]):
    """Cross-entropy of the supervised tokens, summed.

    Args:
        features: what a frozen tower makes of the pictures; for batches that bring no pixels.
        z_loss: weight of log(Z)^2, which keeps logits from drifting (PaLM, Chowdhery et al. 2022, section 5).
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        learn: dict[str, float],
        precision: str = "fp32",
        features: FeatureStore | None = None,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(model.parts(), learn, precision)
        self.model, self.features, self.z_loss = model, features, z_loss

    def _loss(self, batch: Batch) -> torch.Tensor:
        pictures: dict[str, torch.Tensor] = {}
        if batch.pixel_values is not None:
            pictures["pixel_values"] = batch.pixel_values
        elif self.features is not None and batch.samples:
            pictures["picture_features"] = self.features.read(batch.samples)
        if batch.picture_order is not None:
            pictures["picture_order"] = batch.picture_order
        if self.sharded and not pictures:
            batch, pictures = self._with_blank(batch)
        self._check_vocabulary(batch)
        labels = functional.pad(batch.labels[:, 1:], (0, 1), value=NO_LOSS).flatten()
        at = torch.nonzero(labels != NO_LOSS).flatten()
        logits = self.model(
            input_ids=batch.input_ids.to(self.device),
            position_ids=batch.position_ids.to(self.device),
            logits_at=at.to(self.device),
            **{name: value.to(self.device) for name, value in pictures.items()},
        ).float()
        loss = functional.cross_entropy(logits, labels[at].to(self.device), reduction="sum")
        if self.z_loss and torch.is_grad_enabled():
            loss = loss + self.z_loss * logits.logsumexp(-1).square().sum()
        return loss

    def _with_blank(self, batch: Batch) -> tuple[Batch, dict[str, torch.Tensor]]:
        """The batch with a row of one blank tile and no label, and the tile: no rank may pass by a sharded part."""
        layout, (rows, width) = self.model.layout, batch.input_ids.shape
        size = (rows + 1, max(layout.tile_tokens, width))
        ids, labels = torch.zeros(size, dtype=torch.int64), torch.full(size, NO_LOSS)
        positions = torch.arange(size[1]).repeat(rows + 1, 1)
        ids[:rows, :width], labels[:rows, :width] = batch.input_ids, batch.labels
        positions[:rows, :width] = batch.position_ids
        ids[rows, : layout.tile_tokens] = self.model.image_token_id
        batch = replace(batch, input_ids=ids, labels=labels, position_ids=positions)
        if self.features is not None and torch.is_grad_enabled():  # held-out pictures are in no store
            return batch, {"picture_features": torch.zeros(1, *self.features.features.shape[1:])}
        return batch, {"pixel_values": torch.zeros(1, 3, layout.format.size, layout.format.size)}

    def _check_vocabulary(self, batch: Batch) -> None:
        room = self.model.language.get_input_embeddings().num_embeddings
        if (highest := int(batch.input_ids.max())) >= room:
            raise SluiceError(
                f"pack {batch.packs[0]} holds the token {highest}, but the language model embeds {room}: it was made "
                "with another tokenizer; run the feed stage again with this model"
            )


class ContrastiveObjective(Objective[PairBatch]):
    """CLIP's symmetric InfoNCE over a batch (Radford et al. 2021, figure 3), as open_clip's `ClipLoss` has it.

    The loss is the mean over the batch's pairs, times their number, so that dividing by that number gives the mean.

    Args:
        word_loss: weight of the loss of a `WordDetector`, which learns beside the CLIP and is left out of its weights.
        seed: of the detector's weights.
    """

    def __init__(
        self, clip: ClipModel, learn: dict[str, float], precision: str = "fp32", word_loss: float = 0.0, seed: int = 0
    ) -> None:
        clip.model.requires_grad_(True)
        self.model, self.word_loss = clip.model, word_loss
        self.words = WordDetector(clip, seed) if word_loss else None
        part = clip.model if self.words is None else nn.ModuleDict({"clip": clip.model, "words": self.words})
        super().__init__({"clip": part}, learn, precision)

    def _loss(self, batch: PairBatch) -> torch.Tensor:
        pixels, captions = batch.pixel_values.to(self.device), batch.texts.to(self.device)
        detector = self.words if torch.is_grad_enabled() else None
        if detector is not None:
            found = self.model.visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")
            pictures, (patches,) = functional.normalize(found["image_features"], dim=-1), found["image_intermediates"]
        else:
            pictures = self.model.encode_image(pixels, normalize=True)
        texts = self.model.encode_text(captions, normalize=True)
        logits = self.model.logit_scale.exp() * (pictures.float() @ texts.float().T)
        truth = torch.arange(len(logits), device=self.device)
        both = functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)
        loss = both / 2 * len(logits)
        return loss if detector is None else loss + self.word_loss * detector.loss(patches, captions)

    @torch.no_grad()
    def after_update(self) -> None:
        """Keeps the scale at 100 at most, as CLIP does, for the loss is unstable beyond."""
        self.model.logit_scale.clamp_(0, math.log(100))
