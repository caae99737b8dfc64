"""Connectors: from the tower's features to the language model's embeddings. One class each, found by its name."""

from __future__ import annotations

import torch
from torch import nn

from schemas.errors import InputError


class Linear(nn.Linear):
    """One linear layer (LLaVA, Liu et al. 2023, section 4.1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)


class Mlp2xGelu(nn.Module):
    """Two linear layers with GELU between (LLaVA-1.5, Liu et al. 2023b, section 3.3). [P, N, C] -> [P, N, D]."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


CONNECTORS: dict[str, type[nn.Module]] = {"linear": Linear, "mlp2x_gelu": Mlp2xGelu}


def build_connector(name: str, width: int, hidden: int) -> nn.Module:
    """The connector called `name`, from features of length `width` to embeddings of length `hidden`.

    Raises:
        InputError: there is none of that name.
    """
    if name not in CONNECTORS:
        raise InputError(f"model.connector: no connector is called '{name}'; there are {', '.join(CONNECTORS)}")
    return CONNECTORS[name](width, hidden)
