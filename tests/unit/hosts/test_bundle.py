"""worker.pyz: the same bytes for the same code, and a program for any Python 3.10 without packages."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from src import worker
from src.hosts.bundle import WORKER, worker_bundle
from src.worker.journal import write_json
from src.worker.protocol import UNAVAILABLE
from tests.harness.records import ENGINE, JOB

PACKAGE = Path(worker.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package that is bundled in its place."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(worker, "__file__", str(copy / "__init__.py"))
    worker_bundle.cache_clear()
    yield copy
    worker_bundle.cache_clear()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / WORKER
    path.write_bytes(worker_bundle())
    return path


def run_bare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter without site-packages and without the current folder."""
    return subprocess.run(
        [sys.executable, "-I", "-S", *arguments], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )


def test_bundle_is_the_same_bytes_twice(package: Path) -> None:
    first = worker_bundle()
    (package / "journal.py").touch()
    worker_bundle.cache_clear()
    assert worker_bundle() == first


def test_changed_code_changes_the_bytes(package: Path) -> None:
    first = worker_bundle()
    with open(package / "journal.py", "a") as f:
        f.write("# a change\n")
    worker_bundle.cache_clear()
    assert worker_bundle() != first


def test_entries_are_sorted_dated_and_stored() -> None:
    with zipfile.ZipFile(io.BytesIO(worker_bundle())) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    assert names == sorted(names)
    own = {name for name in names if not name.startswith("fastjsonschema/")}
    assert own == {"__main__.py", *(f"worker/{file.relative_to(PACKAGE).as_posix()}" for file in FILES)}
    assert {"fastjsonschema/__init__.py", "fastjsonschema/LICENSE"} <= set(names)
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}


def test_bundle_runs_without_packages(bundle: Path, tmp_path: Path) -> None:
    engine = replace(ENGINE, name="endpoint", base_url="http://127.0.0.1:9/v1")  # nothing listens there
    write_json(tmp_path / "job.json", replace(JOB, engine=engine))
    done = run_bare(bundle, tmp_path)
    assert (done.returncode, done.stderr) == (UNAVAILABLE, "")
    assert "cannot be reached" in json.loads((tmp_path / "exit.json").read_text())["reason"]


def test_bundle_validates_json_by_itself(bundle: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(bundle)!r}); from worker.forms import why_invalid;"
        'print(why_invalid({\'a\': 1}, \'{"properties": {"a": {"type": "string"}}}\'))'
    )
    done = run_bare("-c", code)
    assert (done.stderr, done.stdout.strip()) == ("", "data.a must be string")


def test_bundle_imports_the_standard_library_only(bundle: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(bundle)!r}); import worker.__main__, worker.upsample, worker.infer;"
        "known = sys.stdlib_module_names | {'worker', '__main__'};"
        "print([m for m in sys.modules if m.split('.')[0] not in known])"
    )
    done = run_bare("-c", code)
    assert (done.stderr, done.stdout.strip()) == ("", "[]")


def test_bundle_prints_its_usage(bundle: Path) -> None:
    done = run_bare(bundle)
    assert done.returncode == 2
    assert "PYTHON worker.pyz JOB_FOLDER" in done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_code_is_python_3_10(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level > len(file.relative_to(PACKAGE).parts) for node in imports)  # none leaves the package
    names = {node.module for node in imports if node.level == 0}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not names & {"tomllib", "wsgiref.types", "asyncio.timeouts", "src"}  # new in 3.11, or not shipped
