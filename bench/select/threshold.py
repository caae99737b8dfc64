"""Another CLIP threshold for a finished run of 100,000 rows: how long it takes until the new ledger is there.

The finished run is committed as the stages would have: its source is read by the source stage, its samples and vectors
(512 dimensions) are made up, in parts of 2,000 rows, under the keys that acquire and embed would have given them. So
the line itself says that there is nothing to download or embed. All rules are asked, exact and perceptual dedup too.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.goals import print_goal
from pipelines.line import Line, prepare, stages_until
from pipelines.recipe import Recipe, parse_recipe
from schemas.tables import SAMPLES
from stages.acquire.work import AcquireWork
from stages.embed import EmbedWork
from stages.run_folder import RunFolder
from stages.select import SelectSettings

ROWS, ROWS_PER_PART, DIM = 100_000, 2000, 512
MOST_SECONDS = 10.0
RULES = {
    "min_side_px": 64, "min_area_px": 10_000, "max_area_px": 20_000_000, "max_aspect": 3.0, "min_caption_words": 2,
    "max_caption_words": 60, "boilerplate": True, "languages": ["en"], "max_caption_repeats": 20,
    "min_caption_variety": 0.5, "personal_data": "mask",
}  # fmt: skip
SELECT = {"clip": {"keep": {"min": 0.2}}, "rules": RULES, "dedup": {"exact": True, "perceptual": {"max_hamming": 6}}}


def main(quick: bool) -> None:
    """Prints the goal's line."""
    rows = ROWS // 10 if quick else ROWS
    with tempfile.TemporaryDirectory() as folder:
        line = finished_run(Path(folder), rows)
        before = _manifests(line.run, "source", "acquire", "embed")
        kept = _run(line)["kept"]
        line.recipe = _with_threshold(line.recipe, 0.25)
        begin = time.perf_counter()
        seconds: dict[str, float] = {}
        fewer = _run(line, seconds)["kept"]
        total = time.perf_counter() - begin
        assert _manifests(line.run, "source", "acquire", "embed") == before, (
            "something was downloaded or embedded again"
        )
        assert 0 < fewer < kept < rows
        print_goal("select", f"seconds from another CLIP threshold to the new ledger, {rows:,} rows", total,
                   MOST_SECONDS, least=False, seconds=seconds, kept=[kept, fewer],
                   cores=len(os.sched_getaffinity(0)))  # fmt: skip


def finished_run(folder: Path, rows: int) -> Line:
    """A run whose source, acquire and embed stages are done.

    Raises:
        AssertionError: the line would acquire or embed some of it.
    """
    rng = np.random.default_rng(0)
    captions = _captions(rng, rows)
    urls = [f"http://{row % 997}.host.example/{row}.jpg" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), folder / "urls.parquet")
    source = {"table": str(folder / "urls.parquet"), "rows_per_part": ROWS_PER_PART}
    line = Line(parse_recipe({"name": "t", "source": source, "select": SELECT}, "bench"), RunFolder(folder / "run"))
    prepare(line)
    dict(stages_until("source"))["source"](line)

    acquire = AcquireWork(line.run, line.recipe.acquire, source=line.recipe.source)
    embed = EmbedWork(line.run, line.recipe.select.clip)
    hashes = rng.integers(0, 1 << 64, rows, np.uint64)
    near = rng.random(rows) < 0.05
    hashes[near] = hashes[rng.integers(0, rows, int(near.sum()))] ^ np.uint64(0b1011)
    contents = np.where(rng.random(rows) < 0.05, rng.integers(0, rows, rows), np.arange(rows))
    for part in line.run.parts():
        given = line.run.read_table("source", [part], ["sample_id", "row", "url", "caption"])
        numbers = given["row"].to_numpy()
        samples = _samples(rng, given, hashes[numbers], contents[numbers])
        line.run.commit(
            "acquire", part, acquire.key(part), {f"samples/{part:05d}.parquet": samples}, {"success": len(given)}
        )
        vectors = _vectors(rng, given["sample_id"])
        line.run.commit(
            "embed", part, embed.key(part), {f"vectors/{part:05d}.parquet": vectors}, {"embedded": len(given)}
        )
        assert acquire.done(part) and embed.done(part)
    return line


def _run(line: Line, seconds: dict[str, float] | None = None) -> dict[str, Any]:
    """The line to the ledger, as `sluice run --until select` does it; the ledger's counts."""
    for name, stage in stages_until("select"):
        begin = time.perf_counter()
        counts = stage(line)
        if seconds is not None:
            seconds[str(name)] = round(time.perf_counter() - begin, 2)
    return counts


def _with_threshold(recipe: Recipe, lowest: float) -> Recipe:
    select = SelectSettings.model_validate({**SELECT, "clip": {"keep": {"min": lowest}}})
    return recipe.model_copy(update={"select": select})


def _manifests(run: RunFolder, *stages: str) -> dict[str, tuple[int, bytes]]:
    paths = [path for stage in stages for path in sorted(run.path("manifests", stage).iterdir())]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def _captions(rng: np.random.Generator, rows: int) -> list[str]:
    """English, some German, some that repeat, and some that hold personal data or nothing."""
    kinds = ["cat", "dog", "house", "river", "mountain", "bicycle", "train", "flower", "bridge", "boat"]
    colours = ["red", "green", "old", "small", "wooden", "bright", "quiet", "broken"]
    drawn = rng.integers(0, 1000, (rows, 5))
    said = []
    for row, (one, two, three, four, kind) in enumerate(drawn):
        text = (
            f"a {colours[one % 8]} {kinds[two % 10]} beside the {colours[three % 8]} {kinds[four % 10]}, seen at {row}"
        )
        if kind < 20:
            text = f"{text}; call +1 202-555-{1000 + row % 9000} or write to me{row}@mail.example"
        elif kind < 100:
            text = f"Eine Katze sitzt im Garten neben dem Haus Nummer {row}"
        elif kind < 150:
            text = f"summer sale of {kinds[kind % 10]}s"
        elif kind < 170:
            text = f"IMG_{row}.jpg"
        said.append(text)
    return said


def _samples(rng: np.random.Generator, given: pa.Table, hashes: np.ndarray, contents: np.ndarray) -> pa.Table:
    count = len(given)
    columns: dict[str, Any] = {name: given[name] for name in ("sample_id", "row", "url", "caption")}
    columns["original_width"], columns["original_height"] = rng.integers(50, 3000, (2, count))
    columns["phash"] = [f"{value:016x}" for value in hashes]
    columns["sha256"] = [f"{value:064x}" for value in contents]
    columns["status"] = ["success"] * count
    return pa.table({field.name: columns.get(field.name, pa.nulls(count)) for field in SAMPLES}).cast(SAMPLES)


def _vectors(rng: np.random.Generator, ids: pa.ChunkedArray) -> pa.Table:
    vectors = rng.normal(size=(len(ids), DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), DIM)
    scores = pa.array(rng.normal(0.27, 0.06, len(ids)), pa.float32())
    return pa.table({"sample_id": ids, "clip_score": scores, "vector": flat})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10,000 rows, not 100,000")
    main(parser.parse_args().quick)
