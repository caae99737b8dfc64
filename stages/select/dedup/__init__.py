"""Duplicates among samples that stand in order of preference, best first: exact, then perceptual, then semantic.

What is kept of those that are near each other is the recipe's `link` (see `stages.select.dedup.link`). By `to_kept`, a
sample is dropped if it is too near one that was kept before it, so a chain A-B-C where A and C are not near each other
loses B alone; by `single` it is one group, of which A alone is kept.
"""

from stages.select.dedup.earlier import Earlier, earlier_digests, read_earlier
from stages.select.dedup.work import Verdicts, drop_duplicates

__all__ = ["Earlier", "Verdicts", "drop_duplicates", "earlier_digests", "read_earlier"]
