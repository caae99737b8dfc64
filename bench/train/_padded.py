"""The peer: transformers' Trainer on `LlavaForConditionalGeneration`, with padded batches of given samples."""

from __future__ import annotations

import models.compat  # noqa: F401

# isort: split
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from models.attention import sample_bounds
from models.chat import NO_LOSS
from stages.feed.batches import Batch
from stages.train.settings import TrainStep


def samples_of(batch: Batch, image_token: int) -> list[dict[str, Any]]:
    """The samples of a batch of packs, each with its one picture of one tile, or none.

    Returns:
        `input_ids` and `labels` int64 [T], and `picture` float32 [3, H, W] or None, for each sample.
    """
    ids, labels = batch.input_ids.flatten(), batch.labels.flatten()
    lengths = sample_bounds(batch.position_ids)[0, 0, 0].diff().tolist()
    pictures = iter(() if batch.pixel_values is None else batch.pixel_values)
    samples = []
    for tokens, targets in zip(ids.split(lengths), labels.split(lengths), strict=True):
        if (targets != NO_LOSS).any():  # what remains is the padding at a pack's end
            picture = next(pictures) if (tokens == image_token).any() else None
            samples.append({"input_ids": tokens, "labels": targets, "picture": picture})
    return samples


def padded(samples: list[dict[str, Any]], padding: int) -> dict[str, torch.Tensor]:
    """Samples as one batch of transformers' LLaVA, padded on the right."""
    ids = [sample["input_ids"] for sample in samples]
    pictures = [sample["picture"] for sample in samples if sample["picture"] is not None]
    batch = {
        "input_ids": pad_sequence(ids, True, padding),
        "attention_mask": pad_sequence([torch.ones_like(each) for each in ids], True, 0),
        "labels": pad_sequence([sample["labels"] for sample in samples], True, NO_LOSS),
    }
    return {**batch, "pixel_values": torch.stack(pictures)} if pictures else batch


def train_padded(
    model: Any, steps: list[list[dict[str, Any]]], padding: int, step: TrainStep, folder: Path, batch: int
) -> dict[str, Any]:
    """Trains transformers' LLaVA with its Trainer, at constant rates, as `step` says.

    Args:
        steps: the samples of each optimizer step, by `samples_of`.
        folder: where the Trainer may write.
        batch: most samples in one forward pass.

    Returns:
        For each optimizer step: `losses`, `seconds`, `supervised` tokens.
    """
    # The Trainer takes as many batches for each optimizer step.
    cut = max(-(-len(samples) // batch) for samples in steps)
    batches = [padded(samples[number::cut], padding) for samples in steps for number in range(cut)]
    counts = [sum(int((one["labels"][1:] != NO_LOSS).sum()) for one in samples) for samples in steps]
    found: dict[str, Any] = {"losses": [], "seconds": [], "supervised": counts}
    cuda = torch.cuda.is_available()

    class Notes(TrainerCallback):  # type: ignore[misc]
        begun = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.begun = self.begun or time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if cuda:
                torch.cuda.synchronize()
            found["seconds"].append(time.monotonic() - self.begun)
            self.begun = time.monotonic()

        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "loss" in logs:
                found["losses"].append(float(logs["loss"]))

    class Given(Trainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(batches, batch_size=None)

    options = TrainingArguments(
        output_dir=str(folder), max_steps=len(steps), gradient_accumulation_steps=cut, use_cpu=not cuda,
        bf16=step.precision == "bf16", max_grad_norm=step.clip_norm, logging_steps=1,
        save_strategy="no", report_to=[], disable_tqdm=True, per_device_train_batch_size=batch,
        remove_unused_columns=False,
    )  # fmt: skip
    optimizer = _optimizer(model, step)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    Given(model, options, train_dataset=batches, optimizers=(optimizer, constant), callbacks=[Notes()]).train()
    return found


def _optimizer(model: Any, step: TrainStep) -> torch.optim.AdamW:
    """What `stages.train.loop.make_optimizer` makes of our model; freezes the other parts."""
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, value in model.named_parameters():
        part = "vision" if "vision_tower" in name else "connector" if "multi_modal_projector" in name else "language"
        value.requires_grad_(part in step.learned())
        if part in step.learned():
            matrix = value.ndim >= 2
            group = {"params": [], "lr": step.learned()[part], "weight_decay": step.weight_decay if matrix else 0.0}
            groups.setdefault((part, matrix), group)["params"].append(value)
    return torch.optim.AdamW(list(groups.values()), betas=step.betas, eps=step.eps, fused=True)
