"""A linear layer, GELU, and a linear layer."""

from __future__ import annotations

import torch
from torch import nn

from models.connectors.base import Connector, Widths


class Mlp2xGelu(Connector):
    """Two linear layers with GELU between them (LLaVA-1.5, Liu et al. 2024, section 3.3)."""

    def __init__(self, widths: Widths) -> None:
        super().__init__(widths)
        self.linear_1 = nn.Linear(widths.vision, widths.language)
        self.linear_2 = nn.Linear(widths.language, widths.language)

    def connect(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))
