"""The mean of neighbouring patches, then two linear layers with GELU between them."""

from __future__ import annotations

import math

import torch
from torch import nn

from models.connectors.base import Connector, Widths


class MeanPoolMlp(Connector):
    """The mean over 2 x 2 patches, then an MLP (Baichuan-Omni, Li et al. 2024, section 2.1).

    Of an odd number of rows and columns, half the rows (rounded down) and half the columns (rounded up) are made, so
    that 27 x 27 = 729 patches become the 13 x 14 = 182 tokens that were published. No patch is left out: some of the
    means are over three rows, or share a row or a column with their neighbour (adaptive pooling).
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__(widths)
        self.linear_1 = nn.Linear(widths.vision, widths.language)
        self.linear_2 = nn.Linear(widths.language, widths.language)

    @staticmethod
    def grid(side: int) -> tuple[int, int]:
        return max(1, side // 2), (side + 1) // 2

    def connect(self, features: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(features.shape[1])
        square = features.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        pooled = nn.functional.adaptive_avg_pool2d(square, self.grid(side)).flatten(2).transpose(1, 2)
        return self.linear_2(nn.functional.gelu(self.linear_1(pooled)))
