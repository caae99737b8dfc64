"""1,000,000 vectors with 10% near duplicates planted: how many are found, how fast, in how much memory.

Two sets: `topics`, vectors in many topics of very unequal size in one narrow cone, as CLIP's are, and `random`,
vectors without any structure, in which clusters mean nothing. The peer is an exact search of all pairs by faiss on
100,000 vectors, whose time is scaled with the square of their number. Every measurement is a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from bench.goals import print_goal

COUNT, COMPARED, DIM, MIN_COSINE = 1_000_000, 100_000, 512, 0.95
LEAST_FOUND, MOST_GIB, LEAST_SPEEDUP, MOST_GROWTH = 0.99, 5.0, 20.0, 5.0
_BLOCK = 50_000


def main(quick: bool) -> None:
    """Prints the goals' lines, and what ten times as many vectors cost on paper."""
    count, compared = (COUNT // 4, COMPARED // 4) if quick else (COUNT, COMPARED)
    exact = _measured("exact", "topics", compared)["seconds"] * (count / compared) ** 2
    for kind in ("topics", "random"):
        smaller, larger = (_measured("ours", kind, number) for number in (count // 4, count))
        name = f"{count:,} vectors, {kind}"
        print_goal("select", f"{name}: planted pairs found", larger["found"], LEAST_FOUND, pairs=larger["pairs"],
                   found_of_cosine_below_096=larger["found_far"], dropped=larger["dropped"])  # fmt: skip
        print_goal("select", f"{name}: times faster than all pairs by faiss", exact / larger["seconds"], LEAST_SPEEDUP,
                   ours=round(larger["seconds"], 1), peer=round(exact), peer_measured_on=compared,
                   cores=len(os.sched_getaffinity(0)))  # fmt: skip
        print_goal("select", f"{name}: peak memory, GiB", larger["gib"], MOST_GIB, least=False)
        print_goal("select", f"{name}: time, ratio to {count // 4:,}", larger["seconds"] / smaller["seconds"],
                   MOST_GROWTH, least=False, smaller=round(smaller["seconds"], 1))  # fmt: skip
        paper = {str(number): cost(number) for number in (count, 10 * COUNT)}
        ratio = paper[str(10 * COUNT)]["teraflop"] / paper[str(count)]["teraflop"]
        print(json.dumps({"bench": "select", "on_paper": f"10,000,000 vectors, {kind}", "model": paper,
                          "hours": round(larger["seconds"] * ratio / 3600, 2)}), flush=True)  # fmt: skip


def cost(count: int) -> dict[str, float]:
    """The cost model of `stages.select.dedup.clusters` and `.semantic`, for clusters of equal size.

    With k = count / 512 clusters in sqrt(k) cells, a vector is compared with sqrt(k) cells and the sqrt(k) centres of
    8 of them; then, as one of 5 copies, with half of the 5 * 512 vectors in each of its clusters. A comparison is
    2 * 512 operations. Every copy is read once as float16; memory is that of the vectors and of 5 places each.
    """
    from stages.select.dedup.clusters import COPIES, ROWS_PER_CLUSTER

    cells = math.sqrt(count / ROWS_PER_CLUSTER)
    to_centres, to_vectors = 9 * cells, COPIES * COPIES * ROWS_PER_CLUSTER / 2
    return {
        "teraflop": round(2 * DIM * count * (to_centres + to_vectors) / 1e12, 2),
        "share_of_centres": round(to_centres / (to_centres + to_vectors), 3),
        "gigabytes_read": round(2 * DIM * count * (2 + COPIES) / 1e9, 1),
        "gigabytes_held": round(count * (2 * DIM + COPIES * 24) / 1e9, 1),
    }


def measure(who: str, kind: str, count: int) -> dict[str, float]:
    """One measurement, in this process."""
    vectors, pairs, cosine = planted(kind, count)
    if who == "exact":
        import faiss

        whole = vectors.astype(np.float32)
        index = faiss.IndexFlatIP(DIM)
        begin = time.perf_counter()
        index.add(whole)
        index.range_search(whole, MIN_COSINE)
        return {"seconds": time.perf_counter() - begin}
    from stages.select.dedup.semantic import semantic_duplicates

    begin = time.perf_counter()
    keeper = semantic_duplicates(vectors, MIN_COSINE)
    seconds = time.perf_counter() - begin
    near = cosine >= MIN_COSINE
    found = (keeper[pairs] >= 0).any(axis=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "seconds": seconds, "gib": peak, "found": float(found[near].mean()), "pairs": int(near.sum()),
        "found_far": round(float(found[near & (cosine < 0.96)].mean()), 4), "dropped": int((keeper >= 0).sum()),
    }  # fmt: skip


def planted(kind: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of length 1 in random order, a tenth of them near others.

    Returns:
        float16 [count, 512]; int64 [2, planted], the places of each pair; float32 [planted], its cosine as stored.
    """
    rng = np.random.default_rng([count, kind == "topics"])
    order, copies = rng.permutation(count), count // 10
    vectors = np.empty((count, DIM), np.float16)
    draw = _topics(rng, count) if kind == "topics" else lambda number: _normal(rng, number)
    for start in range(0, count - copies, _BLOCK):
        end = min(start + _BLOCK, count - copies)
        vectors[order[start:end]] = _unit(draw(end - start))
    pairs = np.stack([order[: 9 * copies][rng.permutation(9 * copies)[:copies]], order[count - copies :]])
    cosine = np.empty(copies, np.float32)
    for start in range(0, copies, _BLOCK):
        first, second = pairs[:, start : start + _BLOCK]
        source = _unit(vectors[first].astype(np.float32))
        aside = _normal(rng, len(source))
        aside = _unit(aside - np.einsum("nd,nd->n", aside, source)[:, None] * source)
        wanted = rng.uniform(MIN_COSINE, 1, (len(source), 1)).astype(np.float32)
        vectors[second] = wanted * source + np.sqrt(1 - wanted**2) * aside
        cosine[start : start + len(source)] = np.einsum("nd,nd->n", source, _unit(vectors[second].astype(np.float32)))
    return vectors, pairs, cosine


def _topics(rng: np.random.Generator, count: int) -> Callable[[int], np.ndarray]:
    """Draws from topics: one per 400 vectors, of sizes by Zipf's law, around one direction, with uneven spread."""
    topics = _unit(_unit(_normal(rng, 1)) + _unit(_normal(rng, max(count // 400, 1))))
    share = 1 / np.arange(1, len(topics) + 1) ** 0.8
    scale = (np.arange(1, DIM + 1) ** -0.3).astype(np.float32)

    def draw(number: int) -> np.ndarray:
        chosen = topics[rng.choice(len(topics), number, p=share / share.sum())]
        return chosen + rng.uniform(0.5, 0.9, (number, 1)).astype(np.float32) * _unit(_normal(rng, number) * scale)

    return draw


def _normal(rng: np.random.Generator, number: int) -> np.ndarray:
    return rng.standard_normal((number, DIM), np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _measured(who: str, kind: str, count: int) -> dict[str, float]:
    code = (
        f"import json; from bench.select.vectors import measure; print(json.dumps(measure({who!r}, {kind!r}, {count})))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(who, kind, count, found, file=sys.stderr, flush=True)
    return found
