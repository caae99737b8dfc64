"""The embed stage on Ray against a bare loop in one process: same model, same pictures, same batches.

The stage is timed from its first committed part to its last, and the bare loop likewise from its first part's end, so
that neither start-up nor the loading of the model counts; `with_start` says what it is with them.

    python -m bench.embed [--quick] [--model ViT-B-32 --pretrained none]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.goals import print_goal

TARGET = 0.9
ROWS_PER_PART = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 parts once, not 8 parts three times")
    parser.add_argument("--model", default="sluice-filter-64", help="any OpenCLIP model")
    parser.add_argument("--pretrained", default="packaged", help="its weights; none for untrained ones")
    parser.add_argument("--one", choices=["ours", "bare"], help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        run = {"ours": _ours, "bare": _bare}[arguments.one]
        print(json.dumps(run(Path(arguments.run), arguments.model, arguments.pretrained)))
        return
    parts, rounds = (4, 1) if arguments.quick else (8, 3)
    with tempfile.TemporaryDirectory() as folder:
        _make_samples(Path(folder), parts)
        results: dict[str, list[dict[str, float]]] = {"ours": [], "bare": []}
        for _ in range(rounds):
            for who, found in results.items():
                command = [sys.executable, "-m", "bench.embed", "--one", who, "--run", folder,
                           "--model", arguments.model, "--pretrained", arguments.pretrained]  # fmt: skip
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(who, found[-1], file=sys.stderr, flush=True)
    rate = {who: statistics.median(run["rate"] for run in found) for who, found in results.items()}
    whole = {who: statistics.median(run["with_start"] for run in found) for who, found in results.items()}
    spread = {who: [round(run["rate"], 1) for run in found] for who, found in results.items()}
    print_goal("embed", f"{arguments.model}: stage on Ray, pictures per second, ratio to a bare loop",
               rate["ours"] / rate["bare"], TARGET, ours=round(rate["ours"], 1), bare=round(rate["bare"], 1),
               spread=spread, with_start={who: round(value, 1) for who, value in whole.items()},
               cores=len(os.sched_getaffinity(0)))  # fmt: skip


def _make_samples(root: Path, parts: int) -> None:
    """A run folder whose acquire stage is done, with scenes of the known world."""
    from multiprocessing import Pool

    import pyarrow as pa

    from schemas.identity import sample_id
    from schemas.tables import SAMPLES
    from stages.run_folder import RunFolder
    from stages.tar import tar_bytes

    run = RunFolder(root)
    with Pool() as pool:
        for part in range(parts):
            numbers = range(part * ROWS_PER_PART, (part + 1) * ROWS_PER_PART)
            members, rows = [], []
            for index, (jpeg, caption) in enumerate(pool.map(_scene, numbers, chunksize=50)):
                key = f"{part:05d}{index:04d}"
                members.append((f"{key}.jpg", jpeg))
                url = f"https://example.invalid/{numbers[index]}.jpg"
                rows.append({"key": key, "url": url, "caption": caption, "sample_id": sample_id(url, caption)})
            tar, _ = tar_bytes(members)
            table = pa.Table.from_pylist(rows, SAMPLES)
            run.commit("source", part, "bench", {f"source/{part:05d}.parquet": table}, {"rows": len(rows)})
            outputs = {f"samples/{part:05d}.tar": tar, f"samples/{part:05d}.parquet": table}
            run.commit("acquire", part, "bench", outputs, {"success": len(rows)})


def _scene(number: int) -> tuple[bytes, str]:
    import io

    from stages.sample.world import scene_of

    scene = scene_of(626_262, number)
    buffer = io.BytesIO()
    scene.picture.save(buffer, "JPEG", quality=95)
    return buffer.getvalue(), scene.captions[0]


def _ours(root: Path, model: str, pretrained: str) -> dict[str, float]:
    from models.clip import ClipSettings
    from pipelines.line import start_ray
    from pipelines.recipe import parse_recipe
    from stages.embed import EmbedWork
    from stages.graph import Place, run_parts
    from stages.run_folder import RunFolder

    run = RunFolder(root)
    for part in run.parts():
        run.path("manifests", "embed", f"{part:05d}.json").unlink(missing_ok=True)
        run.table_path("vectors", part).unlink(missing_ok=True)
    start_ray(parse_recipe({"name": "bench", "source": {"table": "none.parquet"}}, "bench"))
    clip = ClipSettings(model=model, pretrained=pretrained)
    begin = time.monotonic()
    ends = []
    for _ in run_parts([Place(lambda: EmbedWork(run, clip), num_cpus=1)], run.parts()):
        ends.append(time.monotonic())
    return _rates(begin, ends)


def _bare(root: Path, model: str, pretrained: str) -> dict[str, float]:
    from models.clip import load_clip
    from models.compat import use_cores
    from stages.run_folder import RunFolder
    from stages.tar import read_members

    run = RunFolder(root)
    begin = time.monotonic()
    use_cores()
    clip = load_clip(model, pretrained)
    ends = []
    for part in run.parts():
        pictures = [content for _, content in read_members(run.path("samples", f"{part:05d}.tar"), "jpg")]
        captions = run.read_table("samples", [part], ["caption"])["caption"].to_pylist()
        (clip.encode_pictures(pictures) * clip.encode_texts(captions)).sum(1)
        ends.append(time.monotonic())
    return _rates(begin, ends)


def _rates(begin: float, ends: list[float]) -> dict[str, float]:
    return {
        "rate": ROWS_PER_PART * (len(ends) - 1) / (ends[-1] - ends[0]),
        "with_start": ROWS_PER_PART * len(ends) / (ends[-1] - begin),
    }


if __name__ == "__main__":
    main()
