"""LoRA (Hu et al. 2021) by peft: of the language model only low-rank adapters learn, and are merged at the end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import save_file

from schemas.errors import InputError
from schemas.settings import Settings

#: The files of an adapter that peft reads.
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class LoraSettings(Settings):
    """The adapters of a step. The defaults are those of LLaVA-1.5's LoRA (Liu et al. 2023, scripts/v1_5)."""

    rank: int = Field(128, ge=1, description="rank of an adapter's two matrices")
    alpha: int = Field(256, ge=1, description="what an adapter adds is multiplied by alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="share of an adapter's inputs set to 0 while it learns")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="layers with adapters, by the ends of their names; all-linear: all but the head"
    )


class Adapters:
    """Adapters in a language model, which is changed in place and then frozen but for them.

    Args:
        language: a causal LM of transformers.
        seed: for the adapters' first weights, which change nothing yet.

    Raises:
        InputError: the model has no layer of a name in `targets`.
    """

    def __init__(self, language: Any, settings: LoraSettings, seed: int) -> None:
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.targets,
            task_type=TaskType.CAUSAL_LM,
        )
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._peft: Any = get_peft_model(language, config)
        except ValueError as error:
            ends = {name.rpartition(".")[2] for name, layer in language.named_modules() if isinstance(layer, _LINEAR)}
            raise InputError(
                f"train: lora.targets: {settings.targets} fits no layer of the language model; its linear layers: "
                f"{', '.join(sorted(ends))}"
            ) from error

    def save(self, folder: Path) -> list[Path]:
        """Writes the adapters as `peft.PeftModel.from_pretrained` reads them; the same weights give the same bytes."""
        from peft import get_peft_model_state_dict

        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / ADAPTER_FILES[1])
        config = copy.copy(self._peft.peft_config["default"])
        config.target_modules, config.inference_mode = sorted(config.target_modules), True
        config.save_pretrained(folder)
        return [folder / name for name in ADAPTER_FILES]

    def merge(self) -> None:
        """Adds each adapter to the layer beside it (W + alpha / rank * B A) and takes it out of the model."""
        self._peft.merge_and_unload()


_LINEAR = (torch.nn.Linear,)
