"""The one line of JSON that a benchmark prints last for each of its goals."""

from __future__ import annotations

import json


def print_goal(bench: str, goal: str, value: float, target: float, least: bool = True, **more: object) -> None:
    """Prints a goal's line.

    Args:
        least: the value must be at least the target; at most, where False.
        more: further figures, for example `ours` and `peer`.
    """
    met = value >= target if least else value <= target
    line = {"bench": bench, "goal": goal, "value": round(value, 4), "target": target, "met": bool(met), **more}
    print(json.dumps(line), flush=True)
