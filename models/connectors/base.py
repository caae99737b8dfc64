"""What every connector is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Widths:
    """The widths that a connector is built between.

    Attributes:
        vision: channels of the tower's features, those of all layers and towers that are read.
        language: channels of the language model's embeddings.
        tower: channels of one layer of the towers; `vision` where None.
        hidden: channels inside the language model's own MLPs; four times `language` where None.
    """

    vision: int
    language: int
    tower: int | None = None
    hidden: int | None = None


class Connector(nn.Module, ABC):
    """Features of tiles -> embeddings of pictures. Its name in a recipe is the name of its file.

    Attributes:
        specials: [specials, language], the tiling's learned embeddings; None where it has none.
    """

    specials: nn.Parameter | None

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.register_parameter("specials", None)

    @staticmethod
    def grid(side: int) -> tuple[int, int]:
        """Rows and columns of embeddings that it makes of `side` x `side` patches."""
        return side, side

    @abstractmethod
    def connect(self, features: torch.Tensor) -> torch.Tensor:
        """Features [tiles, N, widths.vision] -> embeddings [tiles, M, widths.language], each row by row."""

    def forward(self, features: torch.Tensor, order: torch.Tensor | None = None) -> torch.Tensor:
        """Features [tiles, N, vision] -> embeddings [tiles, M, language]; or, with an order, those of [K, language].

        Args:
            order: int64 [K], see `models.layout.PictureLayout.orders`.
        """
        embeddings = self.connect(features)
        if order is None:
            return embeddings
        embeddings = embeddings.flatten(0, 1)
        if self.specials is not None:
            # A negative place counts from the end, where the first learned embedding has to stand last.
            embeddings = torch.cat([embeddings, self.specials.flip(0).to(embeddings.dtype)])
        return embeddings[order % len(embeddings)]
