"""Connectors: from the tower's features to the language model's embeddings. One class each, found by its name."""

from __future__ import annotations

import difflib
from typing import ClassVar

import torch
from torch import nn

from schemas.errors import InputError


class Connector(nn.Module):
    """Features [P, N, vision_width] -> embeddings [P, M, language_width].

    A subclass names itself by `name`, as the recipe does, and is known from then on.
    """

    name: ClassVar[str]
    known: ClassVar[dict[str, type[Connector]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Connector.known[cls.name] = cls

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__()
        self.vision_width, self.language_width = vision_width, language_width

    def tokens(self, patches: int) -> int:
        """How many embeddings a picture of `patches` patches becomes."""
        return patches


class Linear(Connector):
    """One linear layer (LLaVA, Liu et al. 2023, section 4.1)."""

    name = "linear"

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__(vision_width, language_width)
        self.linear = nn.Linear(vision_width, language_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)


class Mlp2xGelu(Connector):
    """Two linear layers with GELU between them (LLaVA-1.5, Liu et al. 2024, section 3.3)."""

    name = "mlp2x_gelu"

    def __init__(self, vision_width: int, language_width: int) -> None:
        super().__init__(vision_width, language_width)
        self.linear_1 = nn.Linear(vision_width, language_width)
        self.linear_2 = nn.Linear(language_width, language_width)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


def connector_class(name: str) -> type[Connector]:
    """The connector of this name.

    Raises:
        InputError: there is none.
    """
    if name not in Connector.known:
        near = difflib.get_close_matches(name, Connector.known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise InputError(f"model.connector: '{name}' is not known; {hint}known: {', '.join(sorted(Connector.known))}")
    return Connector.known[name]
