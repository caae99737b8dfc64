"""What a ten times larger source costs the driver: 100,000 and 1,000,000 rows through the acquire stage to the ledger.

Tiny pictures from nginx on loopback. The driver is the process that runs the line; its memory is its largest resident
set. Goals: it grows by at most 150 MB, and the seconds per row by at most 10%.

    python -m bench.scale [--quick]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.goals import print_goal
from bench.pictures import nginx

MOST_GROWTH_MB, MOST_SLOWER = 150.0, 0.10
FILES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 and 50,000 rows")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_run(arguments.one, arguments.base, Path(arguments.work))))
        return
    small, large = (5_000, 50_000) if arguments.quick else (100_000, 1_000_000)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        served = Path(folder, "served")
        _make_pictures(served)
        with nginx(served) as base:
            for rows in (small, large):
                command = [sys.executable, "-m", "bench.scale", "--one", str(rows), "--base", base,
                           "--work", f"{folder}/{rows}"]  # fmt: skip
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                results[rows] = json.loads(done.stdout.splitlines()[-1])
                print(rows, results[rows], file=sys.stderr, flush=True)
    few, many = results[small], results[large]
    print_goal("scale", f"driver memory from {small:,} to {large:,} rows, growth in MB",
               many["driver_mb"] - few["driver_mb"], MOST_GROWTH_MB, least=False, small=few, large=many)  # fmt: skip
    slower = many["seconds"] / large / (few["seconds"] / small) - 1
    print_goal("scale", f"seconds per row from {small:,} to {large:,} rows, growth", slower, MOST_SLOWER, least=False,
               rows_per_s={"small": round(small / few["seconds"], 1), "large": round(large / many["seconds"], 1)},
               cores=len(os.sched_getaffinity(0)))  # fmt: skip


def _make_pictures(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(FILES):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize((24, 24)).save(buffer, "JPEG", quality=80)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())


def _run(rows: int, base: str, work: Path) -> dict[str, float]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipelines.line import Line, ledger, source, start_ray
    from pipelines.recipe import parse_recipe
    from stages.acquire import acquire_place
    from stages.graph import run_parts
    from stages.run_folder import RunFolder

    work.mkdir(parents=True)
    table = work / "urls.parquet"
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    with pq.ParquetWriter(table, schema) as writer:
        for first in range(0, rows, 50_000):
            numbers = range(first, min(rows, first + 50_000))
            urls = [f"{base}/{number % FILES}.jpg?{number}" for number in numbers]
            captions = [f"a coloured square, number {number}" for number in numbers]
            writer.write_table(pa.table([urls, captions], schema=schema))
    data = {
        "name": "scale",
        "source": {"table": str(table), "rows_per_part": 5000},
        "acquire": {"size": 64, "min_pixels": 16, "concurrency": 64, "per_host": 64, "actors": 2,
                    "allow_networks": ["127.0.0.0/8"]},
    }  # fmt: skip
    line = Line(parse_recipe(data, "bench"), RunFolder(work / "run"))
    start_ray(line.recipe)
    begin = time.monotonic()
    source(line)
    for _ in run_parts([acquire_place(line.run, line.recipe.acquire)], line.run.parts()):
        pass
    ended = ledger(line)
    seconds = time.monotonic() - begin
    if ended["kept"] != rows:
        raise SystemExit(f"bench.scale: of {rows} rows only {ended['kept']} came through: {ended}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"seconds": round(seconds, 1), "driver_mb": round(peak, 1)}


if __name__ == "__main__":
    main()
