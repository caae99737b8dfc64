"""What the model gets of a conversation: the picture as its tower gets it, and the tokens with their loss mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from models.chat import NO_LOSS, encode
from models.full import ModelSettings, picture_layout
from models.language import load_tokenizer
from schemas.conversation import IMAGE_TOKEN, Conversation
from schemas.errors import SluiceError

log = logging.getLogger("sluice")

#: Tokens before a token that are decoded along with it, for some tokenizers write a token by what comes before.
_DECODED_BEFORE = 4


@dataclass(frozen=True)
class Piece:
    """A stretch of a conversation's text. `pictures` is above 0 where it stands for so many picture tokens."""

    text: str
    supervised: bool
    pictures: int = 0


@dataclass(frozen=True)
class View:
    """One conversation as the model gets it; `tokens` and `learned` are 0 where there is no tokenizer."""

    pieces: list[Piece]
    tokens: int
    learned: int


class ModelView:
    """Renders conversations and pictures for the model that `settings` describe, without loading its weights.

    Attributes:
        side: pixels of the square that the vision tower gets.
        exact: whether tokens are shown; without a tokenizer it is questions and answers.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self._layout = picture_layout(settings)
        self.side = self._layout.format.size
        self._tokenizer: Any = None
        try:
            self._tokenizer = load_tokenizer(settings.language)
        except SluiceError as error:
            log.warning("report: answers are marked by their text, for the tokenizer cannot be loaded: %s", error)

    @property
    def exact(self) -> bool:
        return self._tokenizer is not None

    def picture(self, picture: Image.Image) -> Image.Image:
        """The tower's input, its tiles from left to right, with the normalization undone."""
        form, tiles = self._layout.format, self._layout.tensor(picture)
        pixels = np.concatenate(list(tiles.numpy().transpose(0, 2, 3, 1)), axis=1) * form.std + form.mean
        return Image.fromarray(np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8))

    def view(self, conversation: Conversation, size: tuple[int, int] | None) -> View:
        """The tokens in order: picture tokens as one piece, each other token as a piece of its own.

        Args:
            size: width and height of the picture that the conversation is about, where it is about one.
        """
        if self._tokenizer is None:
            return View(_by_text(conversation), 0, 0)
        encoded = encode(conversation, self._tokenizer, self._layout.tokens(*size) if size else 0)
        learned = [label != NO_LOSS for label in encoded.labels]
        return View(self._pieces(encoded.input_ids, learned), len(learned), sum(learned))

    def _pieces(self, ids: list[int], learned: list[bool]) -> list[Piece]:
        picture = self._tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        pieces: list[Piece] = []
        begin = 0
        for place, token in enumerate(ids):
            last = place + 1 == len(ids)
            if token == picture:
                begin = place + 1
                if last or ids[begin] != picture:
                    pieces.append(Piece("", False, place - ids.index(picture) + 1))
                continue
            text = self._decode(ids, begin, place + 1)
            # A letter may be spread over several tokens; only together do they decode.
            whole = "\N{REPLACEMENT CHARACTER}" not in text
            if whole or last or ids[place + 1] == picture or learned[place + 1] != learned[place]:
                pieces.append(Piece(text, learned[place]))
                begin = place + 1
        return pieces

    def _decode(self, ids: list[int], begin: int, end: int) -> str:
        before, both = (
            self._tokenizer.decode(ids[max(0, begin - _DECODED_BEFORE) : until], clean_up_tokenization_spaces=False)
            for until in (begin, end)
        )
        return both[len(before) :]


def _by_text(conversation: Conversation) -> list[Piece]:
    """Questions and answers without a tokenizer; the answers are what is learned."""
    pieces: list[Piece] = []
    for turn in conversation.turns:
        pieces += [Piece(f"{turn.question}\n", False), Piece(turn.answer, True), Piece("\n", False)]
    return pieces
