"""Processes for tests that need several: they start quickly, from one that has loaded everything and run nothing."""

from __future__ import annotations

import multiprocessing

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["stages.train.work", "tests.stages.feed.tiny_run", "torch.utils.tensorboard"])
