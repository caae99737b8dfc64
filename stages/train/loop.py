"""The training loop: plain, over an iterable of batches. It knows nothing of Ray or of where batches come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from schemas.errors import SluiceError
from stages.feed.batches import Batch, PairBatch
from stages.train.failures import LossError
from stages.train.objectives import Objective
from stages.train.settings import TrainStep
from stages.train.sharding import summed, whole


@dataclass
class Progress:
    """How far a step has come, and what has been summed up since its last log line.

    Attributes:
        best, best_step: the lowest validation loss so far, and the optimizer step after which it was measured.
    """

    step: int = 0
    packs: int = 0
    loss: float = 0.0
    divisor: int = 0
    tokens: int = 0
    positions: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int = 0

    def is_best(self, loss: float) -> bool:
        """Whether a validation loss is the lowest so far; it is noted then."""
        if self.best is not None and loss >= self.best:
            return False
        self.best, self.best_step = loss, self.step
        return True


def make_optimizer(objective: Objective[Any], step: TrainStep) -> torch.optim.AdamW:
    """AdamW with a group for every learning part, and weight decay on matrices alone."""
    groups: list[dict[str, Any]] = []
    for part, parameters in objective.parameters().items():
        rate = step.learned()[part]
        matrices = [value for value in parameters.values() if value.ndim >= 2]
        others = [value for value in parameters.values() if value.ndim < 2]
        groups.append({"params": matrices, "weight_decay": step.weight_decay, "lr": rate, "rate": rate, "part": part})
        groups.append({"params": others, "weight_decay": 0.0, "lr": rate, "rate": rate, "part": part})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise SluiceError(f"step '{step.name}': the parts it names have nothing that can learn; see train.learn")
    return torch.optim.AdamW(groups, betas=step.betas, eps=step.eps, fused=True)


def rate_factor(done: int, total: int, warmup: int, schedule: str, min_rate: float = 0.0) -> float:
    """What a part's rate is multiplied by in the optimizer step after `done` of `total`.

    Rises linearly over `warmup` optimizer steps, then stays (`constant`) or falls to `min_rate` along half a cosine.
    """
    if done < warmup:
        return (done + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    fallen = 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))
    return min_rate + (1 - min_rate) * fallen


def train_step(
    objective: Objective[Any],
    batches: Iterable[Batch | PairBatch],
    step: TrainStep,
    total: int | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    on_log: Callable[[dict[str, Any]], None],
    on_checkpoint: Callable[[Progress], None],
    seed: int = 0,
    validate: Callable[[], dict[str, float] | None] | None = None,
) -> None:
    """Runs one training step (one entry of the recipe's `train` list) to its end.

    Each optimizer step's loss is summed over supervised tokens and divided by their number in the whole optimizer step
    (`Batch.divisor`), so the result does not depend on how the step is cut into accumulations and ranks.

    Args:
        batches: this rank's batches from optimizer step `progress.step` on.
        total: optimizer steps of the whole training step, for the schedule; None where they are not known and the
            schedule needs no number. Where `batches` end before, the step ends with them.
        progress: where to begin; updated in place.
        on_log: called on every rank with a line every `log_every` optimizer steps, after validations, and at the end.
        on_checkpoint: called on every rank every `checkpoint_every` optimizer steps, and where `keep_best` asks for it.
        validate: called on every rank every `validate_every` optimizer steps and at the end; gives the held-out loss by
            kind, with `all`, or None where nothing is held out.

    Raises:
        LossError: the loss or its gradient is not a number any more.
    """
    ranks = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    rank = distributed.get_rank() if ranks else 0
    learning = [value for group in optimizer.param_groups for value in group["params"]]
    begun = time.monotonic()
    steps = _optimizer_steps(batches)
    pieces = next(steps, None)
    while pieces is not None:
        # Dropout draws from the step's own seed, so that a resumed run needs no generator state.
        torch.manual_seed((seed * 1_000_003 + progress.step) * 1_009 + rank)
        optimizer.zero_grad()
        sums, divisor = _backward(objective, pieces)
        for value in learning:
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        if ranks:
            _sum_over_ranks([value for value in learning if not summed(value)], sums)
        _set_rates(optimizer, step, progress.step, total or 0)
        lengths = _clip(optimizer, step.clip_norm)
        # The one place in an optimizer step that waits for the device.
        (loss, packs, tokens, positions), gradients = sums.tolist(), _read(lengths)
        _check(step, progress.step, loss, gradients["all"])
        optimizer.step()
        objective.after_update()

        progress.step += 1
        progress.divisor += divisor
        progress.loss += loss
        progress.packs += int(packs)
        progress.tokens += int(tokens)
        progress.positions += int(positions)
        progress.seconds += time.monotonic() - begun
        # Only the batches can say where a stream ends.
        pieces = next(steps, None) if progress.step != total else None
        ended = pieces is None
        losses = validate() if validate is not None and (ended or _is_due(progress.step, step.validate_every)) else None
        if losses is not None or ended or _is_due(progress.step, step.log_every):
            on_log(_line(progress, optimizer, total, gradients, losses))
            progress.loss, progress.divisor, progress.tokens, progress.positions, progress.seconds = 0.0, 0, 0, 0, 0.0
        best = losses is not None and step.keep_best and progress.is_best(losses["all"])
        if not ended and (best or _is_due(progress.step, step.checkpoint_every)):
            on_checkpoint(progress)
        begun = time.monotonic()


def _optimizer_steps(batches: Iterable[Batch | PairBatch]) -> Iterator[Iterator[Batch | PairBatch]]:
    """Cuts batches into those of one optimizer step each. Each is to be used up before the next is asked for."""
    rest = iter(batches)

    def until_last(batch: Batch | PairBatch) -> Iterator[Batch | PairBatch]:
        yield batch
        while not batch.last:
            batch = next(rest)
            yield batch

    for first in rest:
        yield until_last(first)


def _backward(objective: Objective[Any], pieces: Iterable[Batch | PairBatch]) -> tuple[torch.Tensor, int]:
    """Adds the gradients of this rank's pieces of one optimizer step up.

    Returns:
        Their loss, packs, tokens and positions as float64 [4] on the objective's device, and the step's divisor.
    """
    total = torch.zeros(1, dtype=torch.float64, device=objective.device)
    packs = tokens = positions = divisor = 0
    for batch in pieces:
        divisor = batch.divisor
        if not (batch.packs or objective.sharded):
            continue
        loss = objective.loss(batch)
        if loss.requires_grad:  # it does not where no picture is shown and nothing but the connector learns
            (loss / divisor).backward()
        total += loss.detach()
        packs, tokens, positions = packs + len(batch.packs), tokens + batch.tokens, positions + batch.positions
    counts = torch.tensor([packs, tokens, positions], dtype=torch.float64)
    return torch.cat([total, counts.to(objective.device, non_blocking=True)]), divisor


def _sum_over_ranks(parameters: list[nn.Parameter], sums: torch.Tensor) -> None:
    """Adds gradients and `sums` up over all ranks, in place."""
    for work in [distributed.all_reduce(each, async_op=True) for each in (sums, *(p.grad for p in parameters))]:
        work.wait()


def _set_rates(optimizer: torch.optim.Optimizer, step: TrainStep, done: int, total: int) -> None:
    for group in optimizer.param_groups:
        warmup = step.warmup(group["part"], total)
        group["lr"] = group["rate"] * rate_factor(done, total, warmup, step.schedule, step.min_rate)


def _clip(optimizer: torch.optim.Optimizer, most: float) -> dict[str, torch.Tensor]:
    """Cuts the whole gradient to the length `most`. Returns its length before, as `all`, and those of the parts."""
    by_part: dict[str, list[torch.Tensor]] = {}
    for group in optimizer.param_groups:
        by_part.setdefault(group["part"], []).extend(value.grad for value in group["params"])
    lengths = {part: whole(nn.utils.get_total_norm(gradients)) for part, gradients in by_part.items()}
    length = nn.utils.get_total_norm(lengths.values())
    for group in optimizer.param_groups:
        nn.utils.clip_grads_with_norm_(group["params"], most, length)
    return {"all": length, **lengths}


def _read(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Scalars from the device, all at once."""
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _check(step: TrainStep, number: int, loss: float, length: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(length)):
        raise LossError(step, number, loss, length)


def _is_due(done: int, every: int | None) -> bool:
    return every is not None and every > 0 and done % every == 0


def _line(
    progress: Progress,
    optimizer: torch.optim.Optimizer,
    total: int | None,
    gradients: dict[str, float],
    losses: dict[str, float] | None,
) -> dict[str, Any]:
    """One line of the log; `validation` stands in it where held-out losses were measured."""
    return {
        "step": progress.step,
        "steps": total,
        "loss": progress.loss / progress.divisor,
        "lr": {group["part"]: group["lr"] for group in optimizer.param_groups},
        "gradient": gradients["all"],
        "gradients": {part: length for part, length in gradients.items() if part != "all"},
        "tokens_per_s": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "packs": progress.packs,
        "filled": progress.tokens / progress.positions,
        **({} if losses is None else {"validation": losses}),
    }
