"""The acquire stage against img2dataset 1.47.0: same pictures from nginx on loopback, same size, hash and cores.

Each runs in a process of its own, in turn, A B A B; a run is timed from the call of the stage (Ray is up) or of
img2dataset's `download` to the last committed file. Memory is the largest sum of proportional set sizes over the
process and all its children, Ray's own included; nginx is not counted.

    python -m bench.acquire [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench.goals import print_goal
from bench.pictures import free_port, make_pictures, nginx, silent

SIZE, TIMEOUT_S = 256, 5
ROWS_PER_PART = 500
RATIO, MOST_DIFFERENCE, MOST_FALL = 3.0, 3.0, 0.15
DATA = Path("data/bench/acquire")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 pictures, once")
    parser.add_argument("--count", type=int, default=3000, help="pictures; each run is done twice (default 3000)")
    parser.add_argument("--one", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = {"ours": _ours, "peer": _peer}[arguments.one]
        print(json.dumps(_measured(run, Path(arguments.table), Path(arguments.out))))
        return
    count, rounds = (1000, 1) if arguments.quick else (arguments.count, 2)
    paths = make_pictures(DATA, count)
    size = sum((DATA / path).stat().st_size for path in paths) / count
    print(f"{count} JPEGs, {size / 1000:.0f} kB on average", file=sys.stderr)
    with nginx(DATA) as base, silent() as hole, tempfile.TemporaryDirectory(dir=DATA.parent) as work:
        good = _write_table(Path(work, "good.parquet"), [f"{base}/{path}" for path in paths])
        dead = _write_table(Path(work, "dead.parquet"), _with_dead(base, hole, paths))
        results: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for kind, table in (("good", good), ("dead", dead)):
                for who in ("ours", "peer"):
                    result = _in_process(who, table, Path(work, "out"))
                    if (who, kind) == ("ours", "good"):
                        result["difference"] = _difference(Path(work, "out"), DATA, paths)
                    print(who, kind, result, file=sys.stderr, flush=True)
                    results.setdefault((who, kind), []).append(result)
    rate = {key: statistics.median(run["rows"] / run["seconds"] for run in runs) for key, runs in results.items()}
    memory = {who: round(max(run["peak_mb"] for run in results[who, "good"])) for who in ("ours", "peer")}
    spread = {who: [round(run["rows"] / run["seconds"], 1) for run in results[who, "good"]] for who in ("ours", "peer")}
    ours, peer = rate["ours", "good"], rate["peer", "good"]
    print_goal("acquire", f"pictures per second, {count} JPEGs, ratio to img2dataset", ours / peer, RATIO,
               ours=round(ours, 1), peer=round(peer, 1), spread=spread, peak_mb=memory,
               cores=len(os.sched_getaffinity(0)))  # fmt: skip
    difference = max(run["difference"] for run in results["ours", "good"])
    print_goal("acquire", "mean absolute pixel difference from full decode and area resize, of 255", difference,
               MOST_DIFFERENCE, least=False)  # fmt: skip
    ours_dead, peer_dead = rate["ours", "dead"], rate["peer", "dead"]
    print_goal("acquire", "fall of rows per second with 20% dead URLs", 1 - ours_dead / ours, MOST_FALL, least=False,
               ours=round(ours_dead, 1), peer=round(peer_dead, 1),
               peer_fall=round(1 - peer_dead / peer, 3))  # fmt: skip


def _write_table(path: Path, urls: list[str]) -> Path:
    captions = [f"a picture, number {number}" for number in range(len(urls))]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)
    return path


def _with_dead(base: str, hole: str, paths: list[str]) -> list[str]:
    """Every fifth URL is dead: in turn refused, not found, and silent."""
    closed = f"http://127.0.0.1:{free_port()}"
    urls = []
    for index, path in enumerate(paths):
        host = [closed, f"{base}/missing", hole][index // 5 % 3] if index % 5 == 0 else base
        urls.append(f"{host}/{path}")
    return urls


def _in_process(who: str, table: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "bench.acquire", "--one", who, "--table", str(table), "--out", str(out)]
    environment = {
        **os.environ,
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "WANDB_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _measured(run: Callable[[Path, Path], tuple[float, int]], table: Path, out: Path) -> dict[str, Any]:
    peak, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):  # adding up proportional set sizes takes time itself
            peak[0] = max(peak[0], _tree_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        seconds, pictures = run(table, out)
    finally:
        ended.set()
        watcher.join()
    return {
        "seconds": round(seconds, 2),
        "rows": pq.read_metadata(table).num_rows,
        "pictures": pictures,
        "peak_mb": round(peak[0]),
    }


def _tree_mb() -> float:
    me = psutil.Process()
    total = 0
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 1e6


def _ours(table: Path, out: Path) -> tuple[float, int]:
    from pipelines.line import start_ray
    from pipelines.recipe import parse_recipe
    from stages.acquire import acquire_place
    from stages.graph import count_over_parts, run_parts
    from stages.run_folder import RunFolder
    from stages.source import write_parts

    cores = len(os.sched_getaffinity(0))
    data = {
        "name": "bench",
        "source": {"table": str(table), "rows_per_part": ROWS_PER_PART},
        "acquire": {"size": SIZE, "concurrency": 256, "per_host": 256, "actors": cores, "retries": 0,
                    "host_failures": 0, "connect_timeout_s": TIMEOUT_S, "read_timeout_s": TIMEOUT_S,
                    "deadline_s": 4 * TIMEOUT_S, "allow_networks": ["127.0.0.0/8"]},
    }  # fmt: skip
    recipe = parse_recipe(data, "bench")
    run = RunFolder(out)
    write_parts(run, recipe.source)
    start_ray(recipe)
    begin = time.monotonic()
    settings = recipe.acquire
    for _ in run_parts([acquire_place(run, settings)], run.parts()):
        pass
    seconds = time.monotonic() - begin
    return seconds, count_over_parts(run, "acquire", run.parts())["success"]


def _peer(table: Path, out: Path) -> tuple[float, int]:
    from img2dataset import download

    begin = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    download(url_list=str(table), input_format="parquet", url_col="url", caption_col="caption", output_folder=str(out),
             output_format="webdataset", processes_count=cores, thread_count=32, image_size=SIZE,
             resize_mode="keep_ratio_largest", resize_only_if_bigger=True, encode_quality=95, timeout=TIMEOUT_S,
             retries=0, number_sample_per_shard=ROWS_PER_PART, compute_hash="sha256", enable_wandb=False)  # fmt: skip
    seconds = time.monotonic() - begin
    return seconds, sum(json.loads(path.read_text())["successes"] for path in out.glob("*_stats.json"))


def _difference(out: Path, data: Path, paths: list[str], sample: int = 200) -> float:
    """Mean absolute difference, of 255, of stored pictures from a full decode reduced by area."""
    import io

    from stages.tar import read_members

    stored = {}
    for part in range((len(paths) + ROWS_PER_PART - 1) // ROWS_PER_PART):
        for key, picture in read_members(out / "samples" / f"{part:05d}.tar", "jpg"):
            stored[part * ROWS_PER_PART + int(key[5:])] = picture
    differences = []
    for index in np.linspace(0, len(paths) - 1, sample).astype(int):
        ours = Image.open(io.BytesIO(stored[index]))
        reference = Image.open(data / paths[index]).convert("RGB").resize(ours.size, Image.Resampling.BOX)
        differences.append(np.abs(np.asarray(ours, np.float32) - np.asarray(reference, np.float32)).mean())
    return float(np.mean(differences))


if __name__ == "__main__":
    main()
