"""Trains the network that scores, on pairs that are trusted, before anything is scored (`select.clip.train`).

The training is a run of its own in RUN/filter, with parts, manifests and ledger as every run has: `sluice status`,
`trace` and `report` take RUN/filter too.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from models.clip import ClipModel, ClipSettings, load_clip
from models.compat import use_cores
from pipelines.line import Counts, Line, prepare, stages_until
from pipelines.recipe import Recipe
from schemas.vocabulary import Stage
from stages.feed.reader import PackReader
from stages.run_folder import WHOLE, RunFolder, work_key
from stages.select import SelectSettings
from stages.select.filter_network import STEP, caption_auroc, filter_run, scoring_clip
from stages.select.settings import ClipFilterSettings

log = logging.getLogger("sluice")

#: The name under which what the training came to is committed in RUN.
STAGE = "filter"
VERSION = 1


def filter_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the run that trains the network: the trusted pairs, none of them filtered, and one training step.

    It downloads and stores pictures as `recipe` does. What it embeds is embedded with the weights that training begins
    from.
    """
    clip = recipe.select.clip
    assert clip.train is not None
    plain = clip.model_dump(include=set(ClipSettings.model_fields))
    trusted = SelectSettings.model_validate({"clip": plain, "rules": {"boilerplate": False}, "dedup": {"exact": False}})
    return Recipe(
        name=f"{recipe.name}-filter",
        seed=recipe.seed,
        source=clip.train.source,
        acquire=recipe.acquire,
        select=trusted,
        feed={"holdout": clip.train.holdout},
        train=[clip.train.step(clip)],
        ray=recipe.ray,
    )


def train_filter_network(line: Line) -> Counts:
    """Trains the network as far as that is not done, and says what it brought on held-out trusted pairs.

    Returns:
        `pairs`, `held_out`, and where pairs were held out `auroc_before` and `auroc_after`.
    """
    recipe = filter_recipe(line.recipe)
    inner = Line(recipe, filter_run(line.run), line.retry_failed)
    log.info("filter: training %s on trusted pairs, in %s", recipe.select.clip.model, inner.run.root)
    prepare(inner)
    for name, function in stages_until(Stage.TRAIN):
        if name != Stage.INSTRUCT:  # what is trained reads captions, not conversations
            inner.results[name] = function(inner)
    return _measured(line.run, inner.run, line.recipe.select.clip)


def held_out_auroc(run: RunFolder, clip: ClipModel, batch_size: int = 128) -> float | None:
    """How well `clip` tells right captions from wrong ones on the pairs that `run` held out of training.

    Returns:
        See `caption_auroc`; None where fewer than two pairs were held out.
    """
    reader = PackReader(run, ["val"])
    if len(reader) < 2:
        return None
    samples = reader.map(reader.read, range(len(reader)))
    return caption_auroc(
        clip, [each.jpeg for each in samples], [each.record["caption"] for each in samples], batch_size
    )


def _measured(run: RunFolder, inner: RunFolder, clip: ClipFilterSettings) -> Counts:
    """Counts the pairs and compares the network before and after training, once."""
    key = work_key(STAGE, VERSION, None, [inner.output_digest("train", STEP)])
    if not run.is_done(STAGE, WHOLE, key):
        use_cores()
        found: dict[str, Any] = {
            f"auroc_{when}": held_out_auroc(inner, _load(settings), settings.batch_size)
            for when, settings in (("before", clip), ("after", scoring_clip(run, clip)))
        }
        fed = [inner.manifest(Stage.FEED, part) or {"counts": {}} for part in inner.parts()]
        for name, split in (("pairs", "train"), ("held_out", "val")):
            found[name] = sum(manifest["counts"].get(split, 0) for manifest in fed)
        run.commit(STAGE, WHOLE, key, {"filter.json": json.dumps(found, indent=1).encode()}, {}, version=VERSION)
    found = json.loads(run.path("filter.json").read_text())
    before, after = found["auroc_before"], found["auroc_after"]
    if before is not None:
        log.info("filter: AUROC of right against wrong captions on %d held-out trusted pairs: %.3f, before training "
                 "%.3f", found["held_out"], after, before)  # fmt: skip
        if after < before:
            log.warning("filter: training made the network worse; lower select.clip.train.rate or give it more pairs")
    return found


def _load(clip: ClipSettings) -> Any:
    import torch

    options = clip.model_dump(include={"resize_mode", "precision"})
    return load_clip(clip.model, clip.pretrained, "cuda" if torch.cuda.is_available() else "cpu", **options)
