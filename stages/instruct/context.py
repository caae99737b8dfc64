"""What is known of a picture in words: the only thing that the makers of conversations see."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stages.words import overlap, words_of

#: A label that begins so is no object's name: what comes after it is written in the box.
TEXT_PREFIX = "text:"
#: Names that data sets give to what they have no name for.
_NAMELESS = {"unknown", "unlabeled", "unlabelled", "undefined", "none", "null", "nan", "n/a"}
#: Less than this share of a side is under a pixel as most models see a picture, and nothing in three decimals.
_LEAST_SIDE = 0.002


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

    @property
    def area(self) -> float:
        return (self.x2 - self.x1) * (self.y2 - self.y1)

    @property
    def corners(self) -> str:
        """LLaVA's form: `[x1, y1, x2, y2]`, three decimals."""
        return f"[{self.x1:.3f}, {self.y1:.3f}, {self.x2:.3f}, {self.y2:.3f}]"

    def common_area(self, other: LabelledBox) -> float:
        """The area that both boxes cover."""
        width = min(self.x2, other.x2) - max(self.x1, other.x1)
        height = min(self.y2, other.y2) - max(self.y1, other.y1)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Context:
    """One picture's captions and boxes.

    Attributes:
        captions: distinct, none blank, the row's own first; may be none.
        boxes: of objects, cut at the picture's edges; none where the source has no boxes.
        texts: boxes of text in the picture; the label is what is written there.
        hidden: labels of which a box cannot be seen (outside the picture, or of no area).
        unnamed: how many boxes are of an unknown class.
        conversation: what the source says of it already: JSON text of LLaVA's [{from, value}]; null where nothing.
        text_only: it is no picture, and all that is known is the conversation.
    """

    sample_id: str
    captions: list[str]
    boxes: list[LabelledBox] = field(default_factory=list)
    texts: list[LabelledBox] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    unnamed: int = 0
    conversation: str | None = None
    text_only: bool = False

    def counts(self) -> Counter[str]:
        """Label -> how many boxes bear it, in the order of the boxes."""
        return Counter(box.label for box in self.boxes)

    @property
    def complete(self) -> bool:
        """Whether every box has a name and can be seen, so that there is no more of anything than `boxes` say."""
        return not self.hidden and not self.unnamed

    @cached_property
    def clear_labels(self) -> list[str]:
        """Labels that mean their boxes alone: no other label here is a part of them ("dog" beside "guide dog")."""
        labels = list(self.counts())
        others = set(labels) | set(self.hidden)
        return [label for label in labels if not any(overlap(label, other) for other in others - {label})
                and label not in self.hidden]  # fmt: skip

    def single_boxes(self) -> list[LabelledBox]:
        """The boxes of those clear labels that are there once: what "the dog" can be said of."""
        counts, clear = self.counts(), set(self.clear_labels)
        return [box for box in self.boxes if counts[box.label] == 1 and box.label in clear]

    @cached_property
    def caption_words(self) -> frozenset[str]:
        """The words of all captions, as `stages.words.words_of` has them."""
        return frozenset().union(*map(words_of, self.captions))

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Context:
        """Builds the context of a sample. What a row lacks or has wrong is left out; it is never guessed.

        Args:
            row: `captions`, and where the source holds them `conversation` and `text_only`, of
                `schemas.tables.SOURCE`; `sample_id`, `boxes`, `original_width` and `original_height` of
                `schemas.tables.SAMPLES`.
        """
        conversation = row.get("conversation")
        if row.get("text_only"):
            return cls(row["sample_id"], [], conversation=conversation, text_only=True)
        captions = dict.fromkeys(" ".join(caption.split()) for caption in row["captions"] or [] if caption)
        boxes: list[LabelledBox] = []
        texts: list[LabelledBox] = []
        hidden: list[str] = []
        unnamed = 0
        spelling: dict[str, str] = {}
        for box in row["boxes"] or []:
            label = " ".join((box["label"] or "").split())
            corners = _corners(box, row["original_width"], row["original_height"])
            if label.casefold().startswith(TEXT_PREFIX):
                text = label[len(TEXT_PREFIX) :].strip()
                if corners and text:
                    texts.append(LabelledBox(text, *corners))
                continue
            label = spelling.setdefault(label.casefold(), label)
            if label.casefold() in _NAMELESS or not words_of(label):
                unnamed += 1
            elif corners is None:
                hidden.append(label)
            else:
                boxes.append(LabelledBox(label, *corners))
        said = [caption for caption in captions if words_of(caption)]
        return cls(row["sample_id"], said, boxes, texts, hidden, unnamed, conversation)


def _corners(box: dict[str, Any], width: int | None, height: int | None) -> tuple[float, float, float, float] | None:
    """Corners as shares of the sides, cut at the edges; None where nothing of the box can be seen."""
    sides = [box[name] for name in ("x", "y", "w", "h")]
    if not width or not height or None in sides or not all(map(math.isfinite, sides)):
        return None
    x, y, w, h = sides
    x1, x2 = (min(max(edge / width, 0.0), 1.0) for edge in (x, x + w))
    y1, y2 = (min(max(edge / height, 0.0), 1.0) for edge in (y, y + h))
    return (x1, y1, x2, y2) if min(x2 - x1, y2 - y1) >= _LEAST_SIDE else None
