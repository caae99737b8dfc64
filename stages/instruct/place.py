"""The stage's place in the graph."""

from __future__ import annotations

import math

from stages.graph import Place
from stages.instruct.endpoint.engines import find_engine
from stages.instruct.kinds import EndpointKind, find_kind
from stages.instruct.settings import InstructSettings
from stages.instruct.work import InstructWork
from stages.run_folder import RunFolder

#: Threads that one actor has at most.
_MOST_PARTS = 32


def instruct_place(run: RunFolder, settings: InstructSettings, seed: int, rows_per_part: int) -> Place:
    """One actor, so that its endpoint's limits, budget and requests under way are those of the run.

    It has so many parts under way that the last slow answers of one do not leave the endpoint idle.
    """
    endpoint = settings.endpoint
    if endpoint is None or not settings.asks_endpoint():
        return Place(lambda: InstructWork(run, settings, seed), num_cpus=1)
    asked = sum(share for name, share in settings.kinds.items() if issubclass(find_kind(name), EndpointKind))
    parts = 1 + math.ceil(endpoint.concurrency / max(1.0, asked * rows_per_part))
    return Place(
        lambda: InstructWork(run, settings, seed),
        num_cpus=1,
        num_gpus=find_engine(endpoint.engine).gpus(endpoint),
        parts_at_once=min(parts, _MOST_PARTS),
    )
