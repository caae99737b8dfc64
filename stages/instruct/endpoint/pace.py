"""Keeps under a server's rate limits."""

from __future__ import annotations

import asyncio


class Pace:
    """Spreads what is asked evenly: after a cost of `c`, the next may begin `c / rate` later.

    Args:
        per_minute: the limit; None lets all pass.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._seconds = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0

    async def wait(self, cost: float = 1.0) -> None:
        """Returns when it is this one's turn."""
        if not self._seconds:
            return
        now = asyncio.get_running_loop().time()
        begin = max(now, self._next)
        self._next = begin + cost * self._seconds
        await asyncio.sleep(begin - now)
