"""How well the shipped filter network tells right captions from wrong ones, on a world of a seed that nothing was
trained or tuned on. Of each scene one of its five captions is taken; a wrong caption is the next scene's."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from bench.goals import print_goal
from models.clip import load_clip
from stages.sample.world import scene_of
from stages.select.filter_network import caption_auroc

SEED, SCENES = 515_151, 5000
TARGET = 0.97


def main(quick: bool) -> None:
    """Prints the goal's line."""
    scenes = 500 if quick else SCENES
    pictures, captions = pairs(SEED, scenes)
    print_goal("select", f"AUROC of right against wrong captions, shipped filter network, {scenes} scenes",
               caption_auroc(load_clip(), pictures, captions), TARGET)  # fmt: skip


def pairs(seed: int, scenes: int, drawings: Path | None = None) -> tuple[list[Image.Image], list[str]]:
    """Pictures of the world of `seed`, each with one of its captions; the drawings are OpenMoji's where None."""
    rng = np.random.default_rng(seed)
    pictures, captions = [], []
    for row in range(scenes):
        scene = scene_of(seed, row, drawings)
        pictures.append(scene.picture)
        captions.append(scene.captions[int(rng.integers(len(scene.captions)))])
    return pictures, captions


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 scenes, not 5,000")
    main(parser.parse_args().quick)
