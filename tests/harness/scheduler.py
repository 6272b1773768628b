"""A pytest plugin: with pytest-xdist one process runs a whole file, all files that share a server, or the part of a file that
has a server of its own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest

SHARING = ("test_docker",)  # how the names of files that share a server begin
APART = ("test_vllm_families",)  # files with a server for each first parameter


def group(nodeid: str) -> str:
    """What one process runs."""
    file, _, test = nodeid.partition("::")
    stem = PurePosixPath(file).stem
    if stem in APART:
        return f"{file}[{test.partition('[')[2].partition('-')[0].rstrip(']')}]"
    return next((name for name in SHARING if stem.startswith(name)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For --dist loadfile; --dist loadgroup of xdist 3.8 groups nothing under pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log) if config.getvalue("dist") == "loadfile" else None
