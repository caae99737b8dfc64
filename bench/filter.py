"""How well the shipped filter network tells right captions from wrong ones, and what select makes of a known world.

The world has a seed that nothing was trained or tuned on. AUROC: the chance that a right caption scores above a wrong
one (Hanley and McNeil 1982).
"""

from __future__ import annotations

import argparse

import numpy as np

from bench.goals import print_goal
from models.clip import load_clip
from stages.sample.world import scene_of

SEED = 515_151
TARGET = 0.97


def auroc(right: np.ndarray, wrong: np.ndarray) -> float:
    """Share of pairs (right, wrong) in which the right one scores higher; ties count half."""
    ranks = np.argsort(np.argsort(np.concatenate([right, wrong]), kind="stable"), kind="stable") + 1
    return float((ranks[: len(right)].sum() - len(right) * (len(right) + 1) / 2) / (len(right) * len(wrong)))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="500 scenes, not 5,000")
    scenes = 500 if arguments.parse_args().quick else 5000
    rng = np.random.default_rng(SEED)
    pictures, captions = [], []
    for row in range(scenes):
        scene = scene_of(SEED, row)
        pictures.append(scene.picture)
        captions.append(scene.captions[int(rng.integers(len(scene.captions)))])
    model = load_clip()
    seen = model.encode_pictures(pictures)
    said = model.encode_texts(captions)
    right = (seen * said).sum(1)
    wrong = (seen * np.roll(said, 1, axis=0)).sum(1)
    first = float((seen @ said.T).argmax(1).__eq__(np.arange(scenes)).mean())
    print_goal("filter", f"AUROC of right against wrong captions, {scenes} scenes", auroc(right, wrong), TARGET,
               retrieval_at_1=round(first, 4))  # fmt: skip


if __name__ == "__main__":
    main()
