"""What `make test` needs: tests in two processes, which of them stay together, few threads, and the same examples."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# A run that fails must fail again. `pytest --hypothesis-profile default` looks for new examples.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

#: Files whose tests share runs that take minutes.
_TOGETHER = {f"tests/end_to_end/{name}.py" for name in ("test_line", "test_prefect_server", "test_s3")}


class _ByFile(LoadScopeScheduling):
    """A file's tests run in one process, for their fixtures, and so do those of `_TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "together" if path in _TOGETHER else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    root = Path(__file__).parents[1]
    items.sort(key=lambda item: item.path.relative_to(root).as_posix() not in _TOGETHER)
