"""How long `sluice sample` takes for 1,000 scenes on all cores. Goal: under 60 s on 2 cores."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

from bench.goals import print_goal
from stages.sample import make_world

SCENES, TARGET_S = 1000, 60.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="once, not three times")
    quick = arguments.parse_args().quick
    times = 1 if quick else 3
    seconds = []
    for seed in range(times):
        with tempfile.TemporaryDirectory() as folder:
            begin = time.monotonic()
            make_world(Path(folder), SCENES, seed)
            seconds.append(time.monotonic() - begin)
    spread = [round(min(seconds), 2), round(max(seconds), 2)]
    print_goal("sample", "seconds for 1,000 scenes", statistics.median(seconds), TARGET_S, least=False,
               spread=spread, cores=len(os.sched_getaffinity(0)))  # fmt: skip


if __name__ == "__main__":
    main()
