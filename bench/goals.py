"""The one line of JSON that a benchmark prints last for each of its goals."""

from __future__ import annotations

import argparse
import json
import pkgutil
import subprocess
import sys
from types import ModuleType


def print_goal(bench: str, goal: str, value: float, target: float, least: bool = True, **more: object) -> None:
    """Prints a goal's line.

    Args:
        least: the value must be at least the target; at most, where False.
        more: further figures, for example `ours` and `peer`.
    """
    met = value >= target if least else value <= target
    line = {"bench": bench, "goal": goal, "value": round(value, 4), "target": target, "met": bool(met), **more}
    print(json.dumps(line), flush=True)


def run_modules(package: ModuleType) -> None:
    """`python -m` of a package of benchmarks: its modules in turn, or one of them, each in a process of its own.

    Ends the process with status 1 where one of them failed.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_")
    parser = argparse.ArgumentParser(prog=f"python -m {package.__name__}", description=package.__doc__)
    parser.add_argument("--quick", action="store_true", help="less work: to see that it runs, not for figures")
    parser.add_argument("--only", choices=names, help="one benchmark; all in turn where it is not given")
    given = parser.parse_args()
    failed = []
    for name in [given.only] if given.only else names:
        code = f"from {package.__name__}.{name} import main; main({given.quick})"
        if subprocess.run([sys.executable, "-c", code]).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
