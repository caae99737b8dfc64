"""A Prefect server of the user's own, named by PREFECT_API_URL, sees the flow and its artifacts."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.end_to_end.conftest import environment, run_command


def _asked(url: str, **filters: Any) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        url, data=json.dumps(filters).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_the_flow_is_told_to_the_users_server(prefect_server: str, recipe: Path, tmp_path: Path) -> None:
    variables = environment(tmp_path) | {"PREFECT_API_URL": prefect_server}
    run_command(variables, "run", recipe, "--run-dir", tmp_path / "run", "--until", "source", "--set", "name=told")
    (flow,) = _asked(f"{prefect_server}/flow_runs/filter", flow_runs={"name": {"any_": ["told"]}})
    assert flow["state_type"] == "COMPLETED"
    mine = {"flow_runs": {"id": {"any_": [flow["id"]]}}}
    tasks = _asked(f"{prefect_server}/task_runs/filter", **mine)
    assert {run["name"].rsplit("-", 1)[0] for run in tasks} == {"source", "ledger"}
    artifacts = _asked(f"{prefect_server}/artifacts/filter", **mine)
    assert {found["key"] for found in artifacts} == {"sluice-source", "sluice-ledger"}
    assert not (tmp_path / "prefect" / "prefect.db").exists()
