"""Conversations that the source holds already (LLaVA-Instruct, ShareGPT4V, text-only instruction data)."""

from __future__ import annotations

import json

from schemas.conversation import IMAGE_TOKEN, Turn
from schemas.vocabulary import Reason
from stages.instruct.context import Context
from stages.instruct.kinds.base import Kind, Rejected

_SPEAKERS = ("human", "gpt")


class Source(Kind):
    """Takes a conversation in as it is, where it is whole. An answer's kind is the one it bears, or `source`."""

    def turns(self, context: Context) -> list[Turn]:
        """The turns of the source's conversation; none where it holds none.

        Raises:
            Rejected: questions and answers do not follow each other in pairs, one of them is blank, or the picture's
                place is another than with the first question.
        """
        if context.conversation is None:
            return []
        said = json.loads(context.conversation)
        speakers = [each["from"] for each in said]
        if not said or speakers != list(_SPEAKERS) * (len(said) // 2):
            raise Rejected(Reason.BROKEN_TURNS, f"no questions and answers in turn: {', '.join(speakers[:6])}")
        values = [each["value"] for each in said]
        pictures = [place for place, value in enumerate(values) for _ in range(value.count(IMAGE_TOKEN))]
        if context.text_only and pictures:
            raise Rejected(Reason.BROKEN_TURNS, "it shows a picture, and there is none")
        if pictures not in ([], [0]):
            raise Rejected(Reason.BROKEN_TURNS, "the picture stands elsewhere than with the first question")
        values = [value.replace(IMAGE_TOKEN, "").strip() for value in values]
        if not all(values):
            raise Rejected(Reason.BROKEN_TURNS, "an empty question or answer")
        kinds = [each.get("kind") or self.name for each in said[1::2]]
        return [Turn(*turn) for turn in zip(values[0::2], values[1::2], kinds, strict=True)]
