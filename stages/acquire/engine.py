"""What gets pictures from URLs. A new engine is one class in one file, found by its name in the recipe."""

from __future__ import annotations

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from schemas.vocabulary import Reason
from stages.acquire.decode import Picture, Refused, decode
from stages.acquire.settings import AcquireSettings

#: Columns of `schemas.tables.SAMPLES` that are known of one URL, and the picture as JPEG where there is one.
Outcome = tuple[dict[str, Any], bytes | None]

_ENGINES = {"aiohttp": "stages.acquire.download.AiohttpEngine", "img2dataset": "stages.acquire.peer.Img2datasetEngine"}


class Engine(ABC):
    """Downloads and decodes. One instance serves an actor for as long as it lives, from several threads at once."""

    def __init__(self, settings: AcquireSettings) -> None:
        self.settings = settings
        self.decoders = ThreadPoolExecutor(os.cpu_count() or 1, "decode")

    @abstractmethod
    def acquire(self, urls: Sequence[str]) -> list[Outcome]:
        """Fetches and decodes `urls`; the outcomes are in their order. Never raises for what a server does."""

    def decode(self, body: bytes) -> Outcome:
        """What becomes of a downloaded file."""
        return outcome(decode(body, self.settings))

    def close(self) -> None:
        """Ends threads and connections."""
        self.decoders.shutdown()


def make_engine(settings: AcquireSettings) -> Engine:
    """The engine that the recipe names."""
    module, _, name = _ENGINES[settings.engine].rpartition(".")
    return getattr(importlib.import_module(module), name)(settings)


def outcome(decoded: Picture | Refused) -> Outcome:
    """Columns and picture of what `decode` made of a file."""
    columns: dict[str, Any] = {
        "reason": None,
        "error_message": None,
        "sha256": decoded.sha256,
        "original_width": decoded.original_width,
        "original_height": decoded.original_height,
    }
    if isinstance(decoded, Refused):
        return columns | {"reason": decoded.reason, "error_message": decoded.message}, None
    columns |= {"width": decoded.width, "height": decoded.height, "pixels_sha256": decoded.pixels_sha256}
    columns |= asdict(decoded.fingerprint)
    return columns, decoded.jpeg


def dropped(reason: Reason, message: str | None, http_status: int | None = None) -> Outcome:
    """The outcome of a URL from which no file came."""
    return {"reason": reason, "error_message": message, "http_status": http_status}, None
