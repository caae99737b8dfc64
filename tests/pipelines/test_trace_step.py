"""`sluice trace RUN STEP:NUMBER`: the packs and samples that one optimizer step learns from."""

from __future__ import annotations

import io

import models.compat  # noqa: F401

# isort: split
import pytest
from rich.console import Console

from pipelines.line import Line, prepare
from pipelines.recipe import parse_recipe
from pipelines.trace import show_trace
from schemas.errors import InputError
from stages.feed import write_plan
from stages.feed.batches import PiecePlan
from stages.run_folder import RunFolder
from stages.store import read_parquet
from tests.stages.feed.tiny_run import FEED, feed_all, make_model, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = make_run(tmp_path_factory.mktemp("run"))
    model = make_model(tmp_path_factory.mktemp("tokenizer"))
    train = [
        {"name": "align", "learn": {"connector": 1e-3}, "packs_per_step": 2, "epochs": 2},
        {"name": "short", "learn": {"connector": 1e-3}, "packs_per_step": 2, "max_steps": 1},
    ]
    recipe = {"name": "t", "source": {"table": "t.parquet"}, "feed": FEED.model_dump(), "train": train}
    parsed = parse_recipe(recipe | {"model": model.model_dump(exclude_none=True)}, "t")
    prepare(Line(parsed, run))
    feed_all(run, model)
    for step in parsed.train:
        write_plan(run, step, FEED, seed=0)
    return run


def _told(run: RunFolder, key: str) -> list[str]:
    out = Console(file=io.StringIO(), width=60)
    show_trace(run, key, out)
    return out.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_every_step_lists_the_packs_samples_urls_and_lengths_that_it_learns_from(run: RunFolder) -> None:
    pieces = list(PiecePlan(read_parquet(run.path("plan/align.parquet")), 2).pieces())
    urls = {row["sample_id"]: row["url"] for row in run.read_table("source").to_pylist()}
    assert len(pieces) > 2
    for piece in pieces:
        head, *lines = _told(run, f"align:{piece.step + 1}")
        rows = [row for pack in piece.packs for row in pack]
        assert head == (
            f"train align, optimizer step {piece.step + 1} of {len(pieces)}: {len(piece.packs)} packs, "
            f"{len(rows)} conversations, {sum(row['length'] for row in rows)} tokens, {piece.divisor} supervised"
        )
        wanted = []
        for pack in piece.packs:
            wanted.append(f"pack {pack[0]['pack']}, {sum(row['length'] for row in pack)} tokens".split())
            wanted += [
                [str(row["position"]), str(row["length"]), "tokens", f"{row['source']},", "epoch", str(row["epoch"]),
                 row["conversation_id"], urls[row["sample_id"]]]
                for row in pack
            ]  # fmt: skip
        assert [line.split() for line in lines] == wanted


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("align:0", "numbered from 1"),
        ("align:99", "there is no 99"),
        ("short:2", "has 1 optimizer steps"),
        ("instruct:1", "no training step 'instruct'; its steps: align, short"),
    ],
)
def test_a_step_that_is_not_there_is_refused_with_what_is(run: RunFolder, key: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _told(run, key)
