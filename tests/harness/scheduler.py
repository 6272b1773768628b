"""A pytest plugin: with pytest-xdist one process runs a whole file, and all files that share a server."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

SHARING = ("test_docker",)  # how the names of such files begin


def group(nodeid: str) -> str:
    """What one process runs."""
    stem = PurePosixPath(nodeid.partition("::")[0]).stem
    return next((name for name in SHARING if stem.startswith(name)), nodeid.partition("::")[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadfile; --dist loadgroup of xdist 3.8 groups nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log) if config.getvalue("dist") == "loadfile" else None
