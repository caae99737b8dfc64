"""Progress of long work: a bar with rate and time left on a terminal, lines with the same figures in a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("sluice")

#: Seconds between progress lines where there is no terminal.
LINE_EVERY_S = 5.0


class Meter:
    """Counts finished units of one stage and says how far it is.

    Units that were there before (parts that need no work) are counted with `skip` and stay out of the rate.
    """

    def __init__(self, name: str, total: int, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self.worked = 0
        self.begin = self.last = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description:>9}"), BarColumn(),
                TextColumn("{task.completed}/{task.total} {task.fields[unit]}"),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(name, total=total, unit=unit, rate="", note="")

    @property
    def rate(self) -> float:
        """Units a second since the begin."""
        return self.worked / max(time.monotonic() - self.begin, 1e-6)

    def skip(self, number: int) -> None:
        self.done += number
        if self._bar:
            self._bar.update(self._task, completed=self.done)

    def advance(self, number: int, note: str = "") -> None:
        self.done += number
        self.worked += number
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate:.1f} {self.unit}/s", note=note)
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            self.last = time.monotonic()
            left = (self.total - self.done) / self.rate if self.rate else 0
            share = 100 * self.done / max(self.total, 1)
            log.info("%s: %d/%d %s (%.0f%%), %.1f %s/s, %.0f s left %s", self.name, self.done, self.total, self.unit,
                     share, self.rate, self.unit, left, note)  # fmt: skip

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
        seconds = time.monotonic() - self.begin
        log.info("%s: %d %s in %.1f s (%.1f %s/s)", self.name, self.done, self.unit, seconds, self.rate, self.unit)


@contextmanager
def meter(name: str, total: int, unit: str) -> Iterator[Meter]:
    """A `Meter` that is closed at the end, also after an error."""
    made = Meter(name, total, unit)
    try:
        yield made
    finally:
        made.close()
