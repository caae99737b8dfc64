"""What stands in the way of the flow is named with its remedy."""

from __future__ import annotations

import importlib.metadata

import pytest

from pipelines.flow import run_flow
from pipelines.line import Line
from pipelines.recipe import parse_recipe
from schemas.errors import SluiceError
from stages.run_folder import RunFolder


def test_a_backport_that_would_break_prefects_server_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = parse_recipe({"name": "x", "source": {"table": "urls.parquet"}}, "x")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.6")
    with pytest.raises(SluiceError, match="dataclasses 0.6 .*pip uninstall -y dataclasses"):
        run_flow(Line(recipe, RunFolder(tmp_path_factory.mktemp("run"))))
