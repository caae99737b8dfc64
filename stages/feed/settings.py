"""The recipe's `feed` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from schemas.settings import Settings


class FeedSettings(Settings):
    """How kept samples become shards and packs."""

    tokens_per_pack: int = Field(2048, ge=32, description="positions of one packed sequence, picture tokens counted in")
    pictures_per_pack: int = Field(
        64, ge=1, description="most tiles of pictures in one pack, which bounds the tower's memory"
    )
    window: int = Field(4096, ge=1, description="conversations that are packed together")
    too_long: Literal["drop", "split"] = Field(
        "drop",
        description="a conversation that is longer than a pack: it is dropped, or cut between its turns into "
        "several that each show the picture; a turn that is too long alone is dropped",
    )
    holdout: float = Field(0.02, ge=0, lt=1, description="share of kept samples held out for evaluation (split `val`)")
    shards: bool = Field(
        True,
        description="write training shards; where false, only a stream can train, and held-out samples alone lie "
        "in shards",
    )
    ahead: int = Field(4, ge=1, description="stream only: batches that are made ahead of each training worker")
    actors: int = Field(1, ge=1, description="Ray actors that tokenize and write shards")
