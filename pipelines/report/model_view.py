"""What the model gets to see of a conversation: the picture at the tower's size, and the tokens with their loss mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import models.compat  # noqa: F401
import open_clip
from PIL import Image

from models.chat import NO_LOSS, encode
from models.full import ModelSettings
from models.language import load_tokenizer
from models.towers import picture_tokens
from schemas.conversation import IMAGE_TOKEN, Conversation
from schemas.errors import SluiceError

log = logging.getLogger("sluice")


@dataclass(frozen=True)
class Piece:
    """A stretch of a conversation's text. `pictures` is above 0 where it stands for so many picture tokens."""

    text: str
    supervised: bool
    pictures: int = 0


@dataclass(frozen=True)
class View:
    """One conversation as the model gets it; `tokens` and `learned` are 0 where there was no tokenizer."""

    pieces: list[Piece]
    tokens: int
    learned: int


class ModelView:
    """Renders conversations and pictures for the model that `settings` describe, without loading its weights.

    Attributes:
        side: pixels of the square that the vision tower sees.
        exact: whether tokens are shown; without a tokenizer it is questions and answers.
    """

    def __init__(self, settings: ModelSettings) -> None:
        config = open_clip.get_model_config(settings.vision.model) or {}
        self.side: int = config["vision_cfg"]["image_size"]
        self._picture_tokens = picture_tokens(settings.vision)
        self._tokenizer: Any = None
        try:
            self._tokenizer = load_tokenizer(settings.language)
        except SluiceError as error:
            log.warning("report: answers are marked by their text, for the tokenizer cannot be loaded: %s", error)

    @property
    def exact(self) -> bool:
        return self._tokenizer is not None

    def picture(self, picture: Image.Image) -> Image.Image:
        """The picture as the tower gets it before normalization (see `models.towers.VisionTower.picture_tensor`)."""
        return picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)

    def view(self, conversation: Conversation) -> View:
        """The tokens in order, picture tokens as one piece, each other token as a piece of its own."""
        if self._tokenizer is None:
            return View(by_text(conversation), 0, 0)
        encoded = encode(conversation, self._tokenizer, self._picture_tokens)
        pieces = self._pieces(encoded.input_ids, [label != NO_LOSS for label in encoded.labels])
        return View(pieces, len(encoded.input_ids), encoded.supervised)

    def _pieces(self, ids: list[int], supervised: list[bool]) -> list[Piece]:
        picture = self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        pieces: list[Piece] = []
        waiting: list[int] = []
        for place, token in enumerate(ids):
            if token == picture:
                if pieces and pieces[-1].pictures:
                    pieces[-1] = Piece("", False, pieces[-1].pictures + 1)
                else:
                    pieces.append(Piece("", False, 1))
                continue
            waiting.append(token)
            text = self._tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            # A letter may be spread over several tokens; only together do they decode.
            whole = "\N{REPLACEMENT CHARACTER}" not in text
            if whole or place + 1 == len(ids) or supervised[place + 1] != supervised[place]:
                pieces.append(Piece(text, supervised[place]))
                waiting = []
        return pieces


def by_text(conversation: Conversation) -> list[Piece]:
    """Questions and answers without a tokenizer; the answers are what is learned."""
    pieces: list[Piece] = []
    for turn in conversation.turns:
        pieces += [Piece(f"{turn.question}\n", False), Piece(turn.answer, True), Piece("\n", False)]
    return pieces
