"""Conversations that are longer than a pack: cut between turns, never within a turn or the picture's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from schemas.conversation import Conversation, Turn

#: Gives a conversation's tokens, the picture's counted in, and how many of them carry loss.
Measure = Callable[[Conversation], tuple[int, int]]
#: A conversation with its tokens and supervised tokens.
Measured = tuple[Conversation, int, int]

#: What stands between a conversation's id and the number of its piece.
_MARK = "."


def split_turns(conversation: Conversation, room: int, measure: Measure) -> list[Measured]:
    """Cuts a conversation into as few pieces of at most `room` tokens as its turns allow in their order.

    Every piece shows the picture anew and bears the conversation's id with `.0`, `.1`, ... behind it. Turns that do
    not even fit alone are left out.
    """
    pieces: list[Measured] = []
    begun: list[Turn] = []
    whole: Measured | None = None
    for turn in conversation.turns:
        found = _piece(conversation, [*begun, turn], len(pieces), measure)
        if found[1] > room and whole is not None:
            pieces.append(whole)
            begun, whole = [], None
            found = _piece(conversation, [turn], len(pieces), measure)
        if found[1] <= room:
            begun, whole = [*begun, turn], found
    if whole is not None:
        pieces.append(whole)
    return pieces


def whole_id(conversation_id: str) -> str:
    """The id of the conversation that a piece, or a whole conversation, comes from."""
    return conversation_id.partition(_MARK)[0]


def _piece(conversation: Conversation, turns: list[Turn], number: int, measure: Measure) -> Measured:
    piece = replace(conversation, conversation_id=f"{conversation.conversation_id}{_MARK}{number}", turns=turns)
    return piece, *measure(piece)
