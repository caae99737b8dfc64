"""What is known of a picture in words: the only thing that the makers of conversations see."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LabelledBox:
    """A named box; corners as shares of the picture's sides, 0 to 1, origin at the top left."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2


@dataclass(frozen=True)
class Context:
    """One picture's captions and boxes.

    Attributes:
        captions: the row's own caption first.
        boxes: none where the source has no boxes.
        vocabulary: labels that occur in the same part of the data, sorted: where absent objects are drawn from.
    """

    sample_id: str
    captions: list[str]
    boxes: list[LabelledBox] = field(default_factory=list)
    vocabulary: list[str] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """Label -> how many boxes bear it, in the order of the boxes."""
        return Counter(box.label for box in self.boxes)

    @classmethod
    def from_row(cls, row: dict[str, Any], vocabulary: list[str]) -> Context:
        """Builds the context of a sample; boxes are cut at the picture's edges.

        Args:
            row: `captions` of `schemas.tables.SOURCE`, and `sample_id`, `boxes`, `original_width` and
                `original_height` of `schemas.tables.SAMPLES`.
        """
        width, height = row["original_width"], row["original_height"]
        boxes = [
            LabelledBox(
                box["label"],
                min(max(box["x"] / width, 0.0), 1.0),
                min(max(box["y"] / height, 0.0), 1.0),
                min(max((box["x"] + box["w"]) / width, 0.0), 1.0),
                min(max((box["y"] + box["h"]) / height, 0.0), 1.0),
            )
            for box in row["boxes"] or []
        ]
        seen = [box for box in boxes if box.x2 > box.x1 and box.y2 > box.y1]
        return cls(row["sample_id"], list(row["captions"]), seen, vocabulary)
