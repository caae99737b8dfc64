"""One linear layer."""

from __future__ import annotations

import torch
from torch import nn

from models.connectors.base import Connector, Widths


class Linear(Connector):
    """One linear layer (LLaVA, Liu et al. 2023, section 4.1)."""

    def __init__(self, widths: Widths) -> None:
        super().__init__(widths)
        self.linear = nn.Linear(widths.vision, widths.language)

    def connect(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)
