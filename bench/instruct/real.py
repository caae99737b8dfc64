"""Conversations of a real language model, end to end: SmolLM2-135M behind an OpenAI-compatible server on this machine.

200 scenes of the sample world run through the line up to the ledger, with every kind that asks a language model for
every kept picture. The model is very small: what the gates leave of its answers says more of them than of a model that
a real run would use. Goal: every row of the source is accounted for, and every kept picture was asked about.

    python -m bench.instruct --only real     (about an hour on 2 cores; --quick: 5 scenes)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.goals import print_goal
from pipelines.demo import ENDPOINT_PORT, LANGUAGE_MODEL, WORLD_PORT, server
from pipelines.packaged import unpack_smollm2
from stages.instruct.endpoint import AnswerStore
from stages.run_folder import RunFolder

#: Nothing was tuned on this seed.
SEED = 77_031
KINDS = ("conversation", "detail", "reasoning")


def main(quick: bool) -> None:
    """Prints the goal's line, with yields by kind and by gate."""
    scenes = 5 if quick else 200
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    unpack_smollm2(LANGUAGE_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        world, run = Path(folder, "world"), RunFolder(Path(folder, "run"))
        sluice = [sys.executable, "-m", "pipelines.cli"]
        subprocess.run([*sluice, "sample", world, "--scenes", str(scenes), "--seed", str(SEED), "--clean"], check=True)
        pictures = [*sluice, "serve", str(world), "--port", str(WORLD_PORT)]
        language = [sys.executable, "-m", "pipelines.serve_language", "--host", "127.0.0.1", "--port",
                    str(ENDPOINT_PORT), "--continuous-batching"]  # fmt: skip
        with (
            server("pictures", pictures, f"http://127.0.0.1:{WORLD_PORT}/robots.txt"),
            server("language model", language, f"http://127.0.0.1:{ENDPOINT_PORT}/health"),
        ):
            begin = time.monotonic()
            subprocess.run([*sluice, "run", "pipelines/recipes/demo.yaml", "--run-dir", str(run.root), "--until",
                            "instruct", *_overrides(world)], check=True)  # fmt: skip
            seconds = time.monotonic() - begin
        _report(run, scenes, seconds)


def _overrides(world: Path) -> list[str]:
    """The demo's recipe with this world, all rows that can be had, and every kind that asks."""
    kinds = ", ".join(f"{kind}: 1.0" for kind in KINDS)
    changes = [f"source.table={world / 'urls.parquet'}", "source.rows_per_part=50", f"instruct.kinds={{{kinds}}}",
               "select.clip.keep={top: 1.0}", "instruct.endpoint.concurrency=8",
               "instruct.endpoint.timeout_s=600", "instruct.endpoint.deadline_s=3600"]  # fmt: skip
    return [text for change in changes for text in ("--set", change)]


def _report(run: RunFolder, scenes: int, seconds: float) -> None:
    ledger = pq.read_table(run.path("ledger"), columns=["sample_id", "state", "stage"])
    after = pc.equal(ledger["stage"], "instruct").fill_null(False)
    asked = pc.sum(pc.or_(pc.equal(ledger["state"], "kept"), after)).as_py()
    conversations = run.read_table("conversations", columns=["kind", "sample_id"])
    made = Counter(conversations["kind"].to_pylist())
    refused: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    if run.path("rejected").exists():
        rejected = run.read_table("rejected", columns=["kind", "reason", "scope"])
        for row in rejected.to_pylist():
            refused[row["kind"]][f"{row['reason']} ({row['scope']})"] += 1
    store = AnswerStore(run.root.parent / "answers", run.root.name)
    store.refresh()
    spent = store.spent()
    wrong = abs(ledger.num_rows - scenes) + max(0, asked * len(KINDS) - spent.requests)
    print_goal("instruct", "200 scenes with a real language model: rows not accounted for, or not asked about", wrong,
               0, least=False, model="SmolLM2-135M-Instruct", rows=ledger.num_rows, asked_about=asked,
               answers=spent.requests, conversations={kind: made[kind] for kind in KINDS},
               share_of_answers_used={kind: round(made[kind] / max(1, asked), 3) for kind in KINDS},
               refused={kind: dict(counts.most_common()) for kind, counts in refused.items()},
               pictures_with_a_conversation=len(set(conversations["sample_id"].to_pylist())),
               input_tokens=spent.input_tokens, output_tokens=spent.output_tokens, seconds=round(seconds),
               cores=len(os.sched_getaffinity(0)))  # fmt: skip
