"""Duplicates among samples that stand in order of preference, best first: exact, then perceptual, then semantic.

All kinds follow one rule, `to_kept`: in order, a sample is dropped if it is too near one that was kept before it. A
chain A-B-C where A and C are not near each other so loses B alone.
"""

from stages.select.dedup.work import Verdicts, drop_duplicates

__all__ = ["Verdicts", "drop_duplicates"]
