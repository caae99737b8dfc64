"""Attention over neighbouring patches, then a gated MLP."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from models.connectors.base import Connector, Widths

#: Channels of an attention head, as in CLIP's towers.
_HEAD = 64


class AttentionPool(Connector):
    """Attention over 2 x 2 patches with their mean as the query, then SwiGLU (Molmo, Deitke et al. 2024, section 2).

    The attention is as wide as one layer of the tower, the MLP as the language model's own. Of an odd number of rows
    and columns, the last ones are pooled by themselves.
    """

    def __init__(self, widths: Widths) -> None:
        super().__init__(widths)
        tower = widths.tower or widths.vision
        hidden = widths.hidden or 4 * widths.language
        self.heads = max(1, tower // _HEAD)
        inner = self.heads * max(1, tower // self.heads)
        self.query, self.key, self.value = (nn.Linear(widths.vision, inner) for _ in range(3))
        self.out = nn.Linear(inner, tower)
        self.gate = nn.Linear(tower, hidden, bias=False)
        self.up = nn.Linear(tower, hidden, bias=False)
        self.down = nn.Linear(hidden, widths.language, bias=False)

    @staticmethod
    def grid(side: int) -> tuple[int, int]:
        return (side + 1) // 2, (side + 1) // 2

    def connect(self, features: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(features.shape[1])
        rows, columns = self.grid(side)
        padding = (0, 0, 0, 2 * columns - side, 0, 2 * rows - side)
        windows, there = (
            _windows(functional.pad(whole.unflatten(1, (side, side)), padding))
            for whole in (features, torch.ones_like(features[:1, :, :1]))
        )
        pooled = self._attend(windows, there)
        embeddings = self.down(functional.silu(self.gate(pooled)) * self.up(pooled))
        return embeddings.unflatten(0, (len(features), rows * columns))

    def _attend(self, windows: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Windows [tiles * M, 4, C] -> [tiles * M, tower]; `there` [M, 4, 1] is 0 at padding."""
        there = there.repeat(len(windows) // len(there), 1, 1)
        mean = windows.sum(1, keepdim=True) / there.sum(1, keepdim=True)
        query, key, value = (
            layer(inside).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, inside in ((self.query, mean), (self.key, windows), (self.value, windows))
        )
        mask = (there > 0).transpose(1, 2)[:, None]
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(found.transpose(1, 2).flatten(1))


def _windows(whole: torch.Tensor) -> torch.Tensor:
    """[tiles, 2 * rows, 2 * columns, C] -> [tiles * rows * columns, 4, C]."""
    tiles, height, width, channels = whole.shape
    cut = whole.reshape(tiles, height // 2, 2, width // 2, 2, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)
