"""Who may import whom, and which module is the home of which heavy package, as two tables."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# For every package: modules at the top that know nothing of the others.
FOR_ALL = {"errors", "files", "text", "log", "run_folder"}
# Package -> packages that it may import. What acts on a plan never sees the config; a circle cannot be written down here.
MAY_IMPORT: dict[str, set[str]] = {
    "worker": set(),
    "media": set(),
    "models": {"media"},
    "prompts": {"media"},
    "planning": {"prompts", "models", "media", "worker", "config"},
    "timing": {"planning", "media", "worker"},
    "hosts": {"planning", "worker"},
    "runs": {"hosts", "timing", "planning", "models", "media", "worker"},
    "inference": {"runs", "hosts", "timing", "planning", "prompts", "worker", "config"},
    "reports": {"runs", "timing", "planning", "prompts", "models", "media", "worker"},
    "limits": {"reports", "runs", "timing", "planning", "models", "media", "worker", "config"},
}
MAY_IMPORT["tasks"] = {*MAY_IMPORT, "config"}
TOP: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "config": set(),
    "log": {"text"},
    "files": set(),
    "run_folder": {"errors"},
    "resolvers": {"config"},
    "overrides": {"config", "text"},
    "console": FOR_ALL,
    "sweep": {"config", "console", "limits", "resolvers", "tasks", *FOR_ALL},
    "run": {"config", "console", "overrides", "sweep", "tasks", *FOR_ALL},
}
HOMES = {
    "hydra": {"run", "sweep", "resolvers", "overrides"},
    "omegaconf": {"run", "sweep", "resolvers", "overrides", "config"},
    "av": {"media.video", "media.frames", "media.render", "media.encode"},
    "mistral_common": {"models.pixtral"},
    "tiktoken": {"models.pixtral"},
    "jinja2": {"reports.pages", "planning.recipe"},
    "sqlite3": {"runs.answer_cache"},
    "fabric": {"hosts.ssh"},
    "paramiko": {"hosts.ssh", "hosts.known_hosts"},
    "tenacity": {"hosts.host_job"},
    "pyarrow": {"prompts.arrow", "reports.arrow"},
    "vllm": set(),
    "moviepy": {"limits.calibration_clip"},
    "matplotlib": {"limits.matrix"},
}
FILES = sorted(SRC.rglob("*.py"))


def name_of(path: Path) -> str:
    """Dotted name below src; a package by its own name."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES if name_of(path)}


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Dotted names of all that a file imports, also inside functions; of our own as below src, `from a import b` as a.b."""
    package = ("src", *path.relative_to(SRC).parent.parts) if path.is_relative_to(SRC) else ()
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def own(path: Path) -> set[str]:
    """The modules of src that a file imports, the longest name that is one."""
    found = set()
    for name in imported(path):
        if name.startswith("src."):
            parts = name.removeprefix("src.").split(".")
            found.add(next((n for k in range(len(parts), 0, -1) if (n := ".".join(parts[:k])) in MODULES), ""))
    return found - {""}


def room(module: str) -> str:
    return module.split(".")[0]


def circles(graph: dict[str, set[str]]) -> list[str]:
    """What is left of a graph when all that stands on free ground is taken away, again and again."""
    rest = dict(graph)
    while free := [name for name, needs in rest.items() if not needs & rest.keys() - {name}]:
        rest = {name: needs for name, needs in rest.items() if name not in free}
    return sorted(rest)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_package_may(module: str) -> None:
    needs = {room(name) for name in own(MODULES[module])} - {room(module)}
    allowed = TOP[module] if module in TOP else MAY_IMPORT[room(module)] | FOR_ALL
    assert needs <= (set() if room(module) == "worker" else allowed)  # the worker travels alone


def test_modules_import_one_another_in_no_circle() -> None:
    assert circles({module: own(path) for module, path in MODULES.items()}) == []


def test_table_of_packages_has_no_circle() -> None:
    assert circles(MAY_IMPORT) == []


def test_every_package_says_what_it_is_for() -> None:
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent != SRC]
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in packages)


@pytest.mark.parametrize("package", HOMES)
def test_heavy_package_is_imported_only_in_its_home(package: str) -> None:
    users = {name for name, path in MODULES.items() if package in roots(imported(path))}
    assert users <= HOMES[package]


# What the worker may use beyond the standard library, on a machine that has it.
WORKER_HOMES = {"numpy": {"worker.engines.offline"}, "PIL": {"worker.engines.offline"}}


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "worker"])
def test_worker_needs_the_standard_library_only(module: str) -> None:
    foreign = roots(imported(MODULES[module])) - set(sys.stdlib_module_names) - {"src", "__future__"}
    assert all(module in WORKER_HOMES.get(package, ()) for package in foreign)


def roots(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}
