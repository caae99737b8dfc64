"""What ends a training step, told with what to change."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from schemas.errors import SluiceError
from stages.train.settings import TrainStep

#: How allocators say that there is no memory left, beside exceptions of their own.
_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
_SHOWN = 8


class LossError(SluiceError):
    """The loss or its gradient is not a number any more."""

    def __init__(self, step: TrainStep, number: int, loss: float, length: float) -> None:
        super().__init__(
            f"training step '{step.name}', optimizer step {number}: the loss is {loss} and its gradient's length "
            f"{length}; lower the rates in learn, raise warmup_fraction, or set precision: fp32"
        )
        self.number = number

    def with_samples(self, samples: Sequence[str]) -> SluiceError:
        """The same error, which names what the optimizer step learned from."""
        samples = list(dict.fromkeys(samples))
        more = f" and {len(samples) - _SHOWN} more" if len(samples) > _SHOWN else ""
        return SluiceError(
            f"{self}. Its samples were {', '.join(samples[:_SHOWN])}{more}; `sluice trace RUN SAMPLE` shows each"
        )


@contextmanager
def explained(step: TrainStep, world: int, sharded: bool) -> Iterator[None]:
    """Turns a lack of memory into an error that names the keys to change.

    Raises:
        SluiceError: there is no memory left.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise SluiceError(
            f"training step '{step.name}' ran out of memory{f' ({said})' if said else ''}: "
            f"{memory_remedies(step, world, sharded)}; then run again"
        ) from error


def memory_remedies(step: TrainStep, world: int, sharded: bool) -> str:
    """What makes a step need less memory, the cheapest first."""
    if step.objective == "contrastive":
        ways = [f"lower train.{step.name}: batch (now {step.batch})"]
    else:
        ways = []
        packs = step.packs_per_step // (step.accumulation * world)
        finer = [cut for cut in range(2, packs + 1) if packs % cut == 0]
        if finer:
            ways.append(
                f"set train.{step.name}: accumulation: {step.accumulation * finer[0]} (the result is the same; now "
                f"{packs} of packs_per_step: {step.packs_per_step} pass forward at once)"
            )
        ways.append("lower feed.tokens_per_pack")
    if step.precision == "fp32":
        ways.append("set precision: bf16")
    if step.learned().get("language") and step.lora is None:
        ways.append("train adapters alone (lora: {rank: 128, alpha: 256})")
    if world > 1 and not sharded:
        ways.append("set ray.shard: true")
    return ", or ".join(ways)


def _lacks_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _NO_MEMORY)
