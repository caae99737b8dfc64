"""A filter network trained by `select.clip.train` on 3,000 trusted pairs of drawings that the shipped one never saw.

The trusted pairs are scenes of all 1,870 named drawings of Twemoji (see `bench.drawings`), served over HTTP and taken
through the line (source, acquire, feed, train) as pipelines/recipes/filter-then-score.yaml has it, from the shipped
weights on. Measured on 2,000 scenes of another seed: right captions against those of the next scene; the shipped
network without that training beside it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.drawings import twemoji
from bench.goals import print_goal
from bench.pictures import free_port
from bench.select.wrong_captions import pairs
from models.clip import ClipSettings, load_clip
from models.compat import use_cores
from pipelines.demo import server
from pipelines.line import Line, filter_network
from pipelines.recipe import parse_recipe
from stages.run_folder import RunFolder
from stages.sample import NoiseRates, make_world
from stages.select.filter_network import caption_auroc, scoring_clip

RECIPE = Path("pipelines/recipes/filter-then-score.yaml")
DRAWINGS = Path("data/bench/twemoji")
PAIRS, SEED = 3000, 616_161
HELD_OUT, HELD_OUT_SEED = 2000, 626_263
TARGET = 0.90


def main(quick: bool) -> None:
    """Prints the goal's line."""
    number, held_out = (300, 200) if quick else (PAIRS, HELD_OUT)
    drawings = twemoji(DRAWINGS)
    pictures, captions = pairs(HELD_OUT_SEED, held_out, drawings)
    with tempfile.TemporaryDirectory(dir=DRAWINGS.parent) as folder:
        world, run = Path(folder, "world"), RunFolder(Path(folder, "run"))
        port = free_port()
        make_world(world, number, SEED, NoiseRates.clean(), f"http://127.0.0.1:{port}", drawings=drawings)
        recipe = yaml.safe_load(RECIPE.read_text())
        recipe["select"]["clip"]["train"]["source"]["table"] = str(world / "urls.parquet")
        line = Line(parse_recipe(recipe, str(RECIPE)), run)
        serve = [sys.executable, "-m", "pipelines.cli", "serve", str(world), "--port", str(port)]
        begin = time.monotonic()
        with server("trusted pairs", serve, f"http://127.0.0.1:{port}/robots.txt"):
            counts = filter_network(line)
        seconds = time.monotonic() - begin
        clip = line.recipe.select.clip
        use_cores()
        before = _measured(ClipSettings(), pictures, captions)
        after = _measured(scoring_clip(run, clip), pictures, captions)
    print_goal("select", f"AUROC of right against wrong captions, network trained on {number} pairs of another set, "
               f"{held_out} held-out scenes", after, TARGET, shipped_without_training=round(before, 4),
               kinds=len(list(drawings.iterdir())), seconds=round(seconds),
               held_out_of_the_trusted=counts["auroc_after"], cores=len(os.sched_getaffinity(0)))  # fmt: skip


def _measured(clip: ClipSettings, pictures: list[Any], captions: list[str]) -> float:
    return caption_auroc(load_clip(clip.model, clip.pretrained), pictures, captions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 pairs and 200 held-out scenes")
    main(parser.parse_args().quick)
