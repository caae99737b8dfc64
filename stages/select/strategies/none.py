"""Keeps everything: DataComp's "no filtering"."""

from __future__ import annotations

from stages.select.candidates import Candidates
from stages.select.strategies.base import References, Strategy


class Nothing(Strategy):
    """No filtering."""

    def ask(self, rows: Candidates, key: str, references: References) -> None:
        return
