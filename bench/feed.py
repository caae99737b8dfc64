"""How full packs are, how long a trainer waits for batches, and how fast they are made beside webdataset's loader.

The second and third read a finished demo (`make demo`, or another run by --run), which is left as it is. Waiting is
what passes in `next(batches)`, as a share of the whole time of the training loop, with one core for training and one
for preparation. The peer reads the same shards with webdataset in a worker of torch's DataLoader: the same decoding,
preparation of pictures and tokenization, padded batches in place of packs; both have the same one core.

    python -m bench.feed [--quick] [--run runs/demo]
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.goals import print_goal

FILLED, WAITED, RATIO = 0.98, 0.03, 1.0
#: What the demo trains for these is not its `align` step, which is over in seconds.
_STEP = "instruct"
#: Optimizer steps before the clock starts.
_WARM = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of LLaVA's lengths, fewer steps, one round")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo's run folder")
    parser.add_argument("--one", choices=list(_ONES), help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_ONES[arguments.one](_linked(arguments.run, Path(folder)), arguments.count)))
        return
    if not (arguments.run / "eval.json").exists():
        sys.exit(f"bench.feed: {arguments.run} is not a finished demo: run `make demo`, or name one with --run")
    _fill(arguments.run, 0.1 if arguments.quick else 1.0)
    cores = sorted(os.sched_getaffinity(0))
    steps, samples, rounds = (20, 400, 1) if arguments.quick else (60, 1200, 3)
    for one, words in (("cached", "the demo's recipe"), ("decoded", "the same without cached features")):
        found = _ask(arguments.run, one, steps)
        print_goal("feed", f"{words}: share of the training loop's time that it waits for batches",
                   found["share"], WAITED, least=False, **found, cores=len(cores))  # fmt: skip
    runs: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for who, rates in runs.items():
            rates.append(_ask(arguments.run, who, samples)["rate"])
    ours, peer = (statistics.median(runs[who]) for who in ("ours", "peer"))
    print_goal("feed", "conversations per second, ratio to webdataset and torch's DataLoader, one core",
               ours / peer, RATIO, ours=round(ours, 1), peer=round(peer, 1),
               spread={who: [round(rate, 1) for rate in rates] for who, rates in runs.items()})  # fmt: skip


def _fill(run: Path, share: float) -> None:
    from bench.llava_mix import llava_lengths, most_filled
    from stages.feed.plan import fill_rate, plan_packs
    from stages.run_folder import RunFolder

    data = {
        "the demo's conversations": RunFolder(run).read_table("lengths"),
        "lengths like LLaVA-665K's": llava_lengths(share=share),
    }
    for name, lengths in data.items():
        for room in (2048, 4096):
            begin = time.monotonic()
            plan = plan_packs(lengths, room, seed=1, pictures_per_pack=64)
            seconds = time.monotonic() - begin
            most = min(1.0, most_filled(plan["length"].to_numpy(), room))
            print_goal("feed", f"{name}: share of positions filled at {room:,}", fill_rate(plan, room), FILLED,
                       most_possible=round(most, 4), conversations=len(plan), seconds=round(seconds, 2))  # fmt: skip


def _ask(run: Path, one: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.feed", "--one", one, "--run", str(run), "--count", str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    print(one, done.stdout.splitlines()[-1], file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def _linked(run: Path, folder: Path) -> Path:
    """A run folder that reads what `run` holds, and into which features and checkpoints go."""
    for path in run.absolute().iterdir():
        if path.name not in ("features", "checkpoints", "logs", "tensorboard"):
            (folder / path.name).symlink_to(path)
    return folder


def _material(root: Path, cached: bool) -> tuple[Any, Any, Any, Any]:
    """The training step, its objective, what makes its batches, and its plan cut into optimizer steps."""
    import torch

    from pipelines.recipe import load_recipe
    from stages.feed.batches import PiecePlan
    from stages.feed.plan import plan_file
    from stages.run_folder import RunFolder
    from stages.store import read_parquet
    from stages.train.work import StepWork

    torch.set_num_threads(1)
    run = RunFolder(root)
    recipe = load_recipe(run.path("recipe.yaml"))
    step = next(step for step in recipe.train if step.name == _STEP).model_copy(update={"cache_features": cached})
    pieces = PiecePlan(read_parquet(run.path(plan_file(_STEP))), step.global_packs)
    objective, collate, *_ = StepWork(run, recipe.model, [step], 0)._language(pieces, torch.device("cpu"), 0, 1)
    return step, objective, collate, pieces


def _cached(root: Path, steps: int) -> dict[str, float]:
    return _waiting(root, steps, cached=True)


def _decoded(root: Path, steps: int) -> dict[str, float]:
    return _waiting(root, steps, cached=False)


def _waiting(root: Path, steps: int, cached: bool) -> dict[str, float]:
    from itertools import islice

    from stages.feed.batches import prefetch
    from stages.train.loop import Progress, make_optimizer, train_step

    training, preparing = _two_cores()
    step, objective, collate, pieces = _material(root, cached)
    waited = [0.0]
    marks: list[float] = []

    def timed(batches: Iterator[Any]) -> Iterator[Any]:
        for number in range(steps + _WARM):
            if number == _WARM:
                waited[0] = 0.0
                marks.append(time.perf_counter())
            begin = time.perf_counter()
            batch = next(batches)
            waited[0] += time.perf_counter() - begin
            yield batch
        marks.append(time.perf_counter())

    os.sched_setaffinity(0, {training})
    batches = prefetch(islice(pieces.pieces(), steps + _WARM + 8), _on_core(preparing, collate))
    quiet: Callable[..., None] = lambda *_: None  # noqa: E731
    train_step(objective, timed(batches), step, pieces.steps, make_optimizer(objective, step), Progress(), quiet, quiet)
    spent = marks[1] - marks[0]
    return {"share": waited[0] / spent, "step_ms": round(1e3 * spent / steps, 1)}


def _ours(root: Path, samples: int) -> dict[str, float]:
    from stages.feed.batches import prefetch

    _, core = _two_cores()
    _, _, collate, pieces = _material(root, cached=False)
    os.sched_setaffinity(0, {core})
    counts = (len(batch.samples) for batch in prefetch(pieces.pieces(), _on_core(core, collate)))
    return _rate(counts, samples)


def _peer(root: Path, samples: int) -> dict[str, float]:
    import webdataset
    from torch.utils.data import DataLoader

    from stages.feed.plan import plan_file
    from stages.store import read_parquet

    _, core = _two_cores()
    step, _, collate, pieces = _material(root, cached=False)
    planned = read_parquet(root / plan_file(_STEP))
    batch = round(len(planned) / len(set(planned["pack"].to_pylist()))) * step.global_packs
    os.sched_setaffinity(0, {core})
    shards = [str(path) for path in sorted(root.joinpath("shards").glob("train-*.tar"))]
    data = webdataset.WebDataset(shards, shardshuffle=False).shuffle(1000).compose(_Conversations(collate, step.kinds))
    loader = DataLoader(data.batched(batch, collation_fn=_padded), batch_size=None, num_workers=1)
    return _rate((len(found["lengths"]) for found in loader), samples)


class _Conversations:
    """Samples as webdataset reads them -> token ids, labels and pixels of each conversation."""

    def __init__(self, collate: Any, kinds: list[str] | None) -> None:
        self.collate, self.kinds = collate, kinds

    def __call__(self, samples: Iterator[dict[str, Any]]) -> Iterator[tuple[Any, Any, Any]]:
        import torch

        from models.chat import encode
        from schemas.conversation import Conversation
        from stages.feed.reader import decode

        torch.set_num_threads(1)
        make = self.collate
        for sample in samples:
            for row in json.loads(sample["json"])["conversations"]:
                if self.kinds is None or row["kind"] in self.kinds:
                    picture = decode(sample["jpg"])
                    tokens = make.layout.tokens(*picture.size)
                    encoded = encode(Conversation.from_row(row), make.tokenizer, tokens)
                    pixels = make.layout.tensor(picture)
                    yield torch.tensor(encoded.input_ids), torch.tensor(encoded.labels), pixels


def _padded(rows: list[tuple[Any, Any, Any]]) -> dict[str, Any]:
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids, labels, pixels = zip(*rows, strict=True)
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
        "pixel_values": torch.cat(pixels),
        "lengths": [len(one) for one in ids],
    }


def _rate(counts: Iterator[int], samples: int) -> dict[str, float]:
    """Conversations per second, after the first few batches."""
    for _ in range(_WARM):
        next(counts)
    done, begin = 0, time.perf_counter()
    while done < samples:
        done += next(counts)
    return {"rate": done / (time.perf_counter() - begin)}


def _two_cores() -> tuple[int, int]:
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[-1]


def _on_core(core: int, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`make` in a thread that is held on one core."""

    def held(item: Any) -> Any:
        os.sched_setaffinity(0, {core})
        return make(item)

    return held


_ONES: dict[str, Callable[[Path, int], dict[str, float]]] = {
    "cached": _cached, "decoded": _decoded, "ours": _ours, "peer": _peer,
}  # fmt: skip

if __name__ == "__main__":
    main()
