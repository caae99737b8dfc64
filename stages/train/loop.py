"""The training loop: plain, over an iterable of batches. It knows nothing of Ray or of where batches come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from schemas.errors import SluiceError
from stages.feed.batches import Batch, PairBatch
from stages.train.objectives import Objective
from stages.train.settings import TrainStep


@dataclass
class Progress:
    """How far a step has come, and what has been summed up since its last log line."""

    step: int = 0
    packs: int = 0
    loss: float = 0.0
    divisor: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0


def make_optimizer(objective: Objective[Any], step: TrainStep) -> torch.optim.AdamW:
    """AdamW with a group for every learning part, and weight decay on matrices alone."""
    groups: list[dict[str, Any]] = []
    for part, parameters in objective.parameters().items():
        rate = step.learn[part]
        matrices = [value for value in parameters.values() if value.ndim >= 2]
        others = [value for value in parameters.values() if value.ndim < 2]
        groups.append({"params": matrices, "weight_decay": step.weight_decay, "lr": rate, "rate": rate, "part": part})
        groups.append({"params": others, "weight_decay": 0.0, "lr": rate, "rate": rate, "part": part})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise SluiceError(f"step '{step.name}': the parts it names have nothing that can learn; see train.learn")
    return torch.optim.AdamW(groups, betas=step.betas, eps=step.eps, fused=True)


def rate_factor(done: int, total: int, warmup_fraction: float, schedule: str) -> float:
    """What a part's rate is multiplied by in the optimizer step after `done` of `total`.

    Rises linearly over the warm-up, then stays (`constant`) or falls to 0 along half a cosine.
    """
    warmup = math.ceil(total * warmup_fraction)
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))


def train_step(
    objective: Objective[Any],
    batches: Iterable[Batch | PairBatch],
    step: TrainStep,
    total: int,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    on_log: Callable[[dict[str, Any]], None],
    on_checkpoint: Callable[[Progress], None],
    seed: int = 0,
) -> None:
    """Runs one training step (one entry of the recipe's `train` list) to its end.

    Each optimizer step's loss is summed over supervised tokens and divided by their number in the whole optimizer step
    (`Batch.divisor`), so the result does not depend on how the step is cut into accumulations and ranks.

    Args:
        batches: this rank's batches from optimizer step `progress.step` on.
        total: optimizer steps of the whole training step, for the schedule.
        progress: where to begin; updated in place.
        on_log: called on every rank with a line every `log_every` optimizer steps and at the end.
        on_checkpoint: called on every rank every `checkpoint_every` optimizer steps.

    Raises:
        SluiceError: the loss or its gradient is not a number any more.
    """
    ranks = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    rank = distributed.get_rank() if ranks else 0
    learning = [value for group in optimizer.param_groups for value in group["params"]]
    begun, sums, fresh = time.monotonic(), torch.zeros(4, dtype=torch.float64), True
    for batch in batches:
        if fresh:
            # Dropout draws from the step's own seed, so that a resumed run needs no generator state.
            torch.manual_seed((seed * 1_000_003 + progress.step) * 1_009 + rank)
            optimizer.zero_grad()
            sums.zero_()
            fresh = False
        if batch.packs:
            loss = objective.loss(batch)
            if loss.requires_grad:  # it does not where no picture is shown and nothing but the connector learns
                (loss / batch.divisor).backward()
            sums += torch.tensor([loss.item(), len(batch.packs), batch.tokens, batch.positions], dtype=torch.float64)
        if not batch.last:
            continue
        for value in learning:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        if ranks:
            _sum_over_ranks(learning, sums)
        factor = rate_factor(progress.step, total, step.warmup_fraction, step.schedule)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        length = nn.utils.clip_grad_norm_(learning, step.clip_norm)
        _check(step, progress.step, sums[0].item(), length.item())
        optimizer.step()
        objective.after_update()
        progress.step += 1
        progress.divisor += batch.divisor
        progress.loss += sums[0].item()
        progress.packs += int(sums[1])
        progress.tokens += int(sums[2])
        progress.positions += int(sums[3])
        now = time.monotonic()
        progress.seconds, begun, fresh = progress.seconds + now - begun, now, True
        if progress.step % step.log_every == 0 or progress.step == total:
            on_log(_line(progress, optimizer, total, length.item()))
            progress.loss, progress.divisor, progress.tokens, progress.positions, progress.seconds = 0.0, 0, 0, 0, 0.0
        if progress.step % step.checkpoint_every == 0 and progress.step < total:
            on_checkpoint(progress)
            begun = time.monotonic()


def _sum_over_ranks(parameters: list[nn.Parameter], sums: torch.Tensor) -> None:
    """Adds gradients and `sums` up over all ranks, in place."""
    moved = sums.to(parameters[0].device)
    for work in [distributed.all_reduce(each, async_op=True) for each in (moved, *(p.grad for p in parameters))]:
        work.wait()
    sums.copy_(moved)


def _check(step: TrainStep, number: int, loss: float, length: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(length)):
        raise SluiceError(
            f"training step '{step.name}', optimizer step {number}: the loss is {loss} and its gradient's length "
            f"{length}; lower the rates in learn, raise warmup_fraction, or set precision: fp32"
        )


def _line(progress: Progress, optimizer: torch.optim.Optimizer, total: int, length: float) -> dict[str, Any]:
    return {
        "step": progress.step,
        "steps": total,
        "loss": progress.loss / progress.divisor,
        "lr": {group["part"]: group["lr"] for group in optimizer.param_groups},
        "gradient": length,
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "packs": progress.packs,
        "filled": progress.tokens / progress.positions,
    }
