"""The one family of errors that Sluice raises on purpose.

A message says what is wrong, where (file, row or key), and what to do about it.
"""

from __future__ import annotations


class SluiceError(Exception):
    """A run failed and can be started again (exit status 1)."""

    exit_status = 1


class InputError(SluiceError):
    """The recipe or the input is wrong; starting again without a change is of no use (exit status 2)."""

    exit_status = 2


class LawError(SluiceError):
    """The ledger does not account for every source row exactly once."""
