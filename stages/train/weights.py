"""Weights between steps: each step's learned parts lie in RUN/checkpoints/<step>/final.safetensors."""

from __future__ import annotations

from collections.abc import Sequence

from models.full import VisionLanguageModel, load_weights
from schemas.errors import SluiceError
from stages.run_folder import RunFolder
from stages.store import fetched

STAGE = "train"
#: In RUN/checkpoints/<step>/.
FINAL = "final.safetensors"


def final_file(step_name: str) -> str:
    """Path in the run folder of what a step learned."""
    return f"checkpoints/{step_name}/{FINAL}"


def trained_digests(run: RunFolder, step_names: Sequence[str]) -> list[str | None]:
    """For each step the digest of what it learned; None where it is not done."""
    return [run.output_digest(STAGE, name) for name in step_names]


def load_trained(model: VisionLanguageModel, run: RunFolder, step_names: Sequence[str]) -> None:
    """Puts what the steps learned into a freshly built model, in their order.

    Raises:
        SluiceError: a step is not done.
    """
    for name in step_names:
        path = run.path(final_file(name))
        if not path.exists():
            raise SluiceError(f"training step '{name}' is not done ({path} is not there): run the train stage first")
        with fetched(path) as file:
            load_weights(model, file)
