"""The Prefect flow: one task a stage, each leaving an artifact with its counts. Ray runs inside the tasks."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

# Read by Prefect when it is imported, so they come first. A server of the user's own (PREFECT_API_URL) is not touched.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY", "false")
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")  # errors are told once, by the command line

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from pipelines.line import Line, StageFunction, stages_until
from schemas.errors import SluiceError


def _check_backport() -> None:
    """Refuses to start where a backport of dataclasses is installed, which Prefect's own server would find first.

    Raises:
        SluiceError: with the remedy.
    """
    with suppress(importlib.metadata.PackageNotFoundError):
        version = importlib.metadata.version("dataclasses")
        raise SluiceError(
            f"the package dataclasses {version} (a backport for Python 3.6 that img2dataset brings) hides Python's own "
            "from Prefect's server: pip uninstall -y dataclasses"
        )


def run_flow(line: Line, until: str | None = None, on_stage: Callable[[str], None] | None = None) -> dict[str, Any]:
    """Runs the line's stages as a Prefect flow; without `PREFECT_API_URL` Prefect brings up a server for itself.

    Args:
        until: the last stage to run; all of them where None.
        on_stage: called with a stage's name before it begins.

    Returns:
        Stage name -> its counts.

    Raises:
        Whatever a stage raises.
    """

    _check_backport()

    @flow(name="sluice", flow_run_name=f"{line.recipe.name}", retries=0, validate_parameters=False)
    def sluice() -> dict[str, Any]:
        for name, function in stages_until(until, line.streams):
            if on_stage:
                on_stage(name)
            line.results[name] = _as_task(name, function)(line)
        return line.results

    return sluice()


def _as_task(name: str, function: StageFunction) -> Callable[[Line], dict[str, Any]]:
    def work(line: Line) -> dict[str, Any]:
        counts = function(line)
        rows = [{"count": key, "value": str(value)} for key, value in counts.items()]
        create_table_artifact(table=rows, key=f"sluice-{name}", description=f"{line.recipe.name}: {function.__doc__}")
        return counts

    # Nothing is cached or persisted by Prefect: the run folder's manifests say what is done.
    wrapped = task(name=name, retries=0, persist_result=False, cache_policy=NO_CACHE)(work)
    return wrapped
