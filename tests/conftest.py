"""What `make test` needs to run tests in two processes: which of them stay together, and few threads for each."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

#: Fixtures of a whole session that take long: the tests that use one of them run in one process, and first.
_COSTLY = {"finished", "sluice", "prefect_server"}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps a file's tests in one process, for their fixtures; so those on the costly ones."""

    def is_costly(item: pytest.Item) -> bool:
        return not _COSTLY.isdisjoint(getattr(item, "fixturenames", ()))

    for item in items:
        item.add_marker(pytest.mark.xdist_group("costly" if is_costly(item) else str(item.path)))
    items.sort(key=is_costly, reverse=True)
