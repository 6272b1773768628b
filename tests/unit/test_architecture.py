"""Which package may import which, and which modules may import which heavy dependency, as tables."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"

# Modules that every package may import: they import none of the others.
FOR_ALL = {
    "cache_table",
    "counted",
    "errors",
    "files",
    "interrupts",
    "line_file",
    "line_json",
    "text",
    "log",
    "run_folder",
    "seals",
}
# Package: packages that it may import. What acts on a plan never sees the config.
MAY_IMPORT: dict[str, set[str]] = {
    "media": set(),
    "models": {"media"},
    "prompts": {"media"},
    "targets": set(),
    "planning": {"prompts", "targets", "models", "media", "choices", "config"},
    "timing": {"planning", "media"},
    "hosts": {"planning"},
    "runs": {"hosts", "timing", "targets", "models", "planning", "media"},
    "inference": {"runs", "hosts", "timing", "planning", "targets", "prompts", "choices", "config"},
    "reports": {"inference", "runs", "timing", "planning", "targets", "models", "prompts", "media"},
    "limits": {"reports", "runs", "timing", "planning", "models", "media", "choices", "config"},
    "tasks": {
        *(
            "limits",
            "reports",
            "inference",
            "runs",
            "hosts",
            "timing",
            "planning",
            "targets",
            "models",
            "prompts",
            "media",
        ),
        *("choices", "config"),
    },
    "worker": set(),
}
# Modules next to the packages: what they may import.
TOP: dict[str, set[str]] = {
    "errors": set(),
    "text": set(),
    "choices": set(),
    "config": {"choices"},
    "sentences": {"text"},
    "log": {"sentences"},
    "cache_table": {"log"},
    "files": set(),
    "interrupts": set(),
    "line_file": set(),
    "counted": set(),
    "line_json": set(),
    "run_folder": {"errors", "log"},
    "seals": {"files"},
    "shortcuts": {"run_folder", "text"},
    "help": {"choices", "files", "shortcuts", "text"},
    "resolvers": {"choices", "config", "files"},
    "overrides": {"config", "run_folder", "seals", "text"},
    "console": FOR_ALL,
    "sweep": {"choices", "config", "console", "limits", "overrides", "reports", "resolvers", "tasks", *FOR_ALL},
    "api": {"config", "console", "overrides", "reports", "resolvers", "run", "sweep", *FOR_ALL},
    "run": {"choices", "config", "console", "help", "overrides", "resolvers", "shortcuts", "sweep", "tasks", *FOR_ALL},
}
# The worker runs elsewhere: others import how it is spoken to, and what both sides must do alike.
OF_WORKER = {f"worker.{name}" for name in ("answer_form", "job_settings", "journal", "protocol", "records", "values")}
MORE_OF_WORKER = {
    "hosts.bundle": {"worker"},  # ships it
    "models.ask": {"worker.chat"},
    "models.endpoint_counts": {
        "worker.engines.endpoint",
        "worker.lifecycle",
        "worker.network",
        "worker.refusals",
        "worker.replies",
    },
    "models.families": {"worker.byte_pairs"},
    "models.counting_server": {"worker.network", "worker.processes", "worker.replies"},
    "models.gguf": {
        "worker.engines.llamacpp_server",
        "worker.lifecycle",
        "worker.processes",
        "worker.refusals",
        "worker.replies",
    },
    "models.render_server": {"worker.engines.vllm_server", "worker.processes"},
    "planning.facts": {"worker.facts"},
    "models.tokenizer": {"worker.byte_pairs"},
    "reports.exports": {"worker.chat"},
    "reports.reviews": {"worker.upsample"},
    "reports.rows": {"worker.upsample"},
    "runs.ray_node": {"worker.processes"},
    "runs.staging": {"worker.upsample"},
    "runs.upsampling": {"worker.upsample"},
}
HOMES = {
    "hydra": {"api", "run", "sweep", "resolvers", "overrides"},
    "omegaconf": {"api", "run", "sweep", "resolvers", "overrides", "config"},
    "av": {"media.colour", "media.guard", "media.video", "media.frames", "media.render", "media.encode"},
    "mistral_common": set(),
    "tiktoken": {"models.tokenizer", "worker.encoder"},
    "jinja2": {"reports.pages", "planning.recipe"},
    "sqlite3": {"cache_table"},
    "fabric": {"hosts.ssh"},
    "orjson": {"line_json"},
    "paramiko": {"hosts.ssh", "hosts.ssh_config", "hosts.known_hosts"},
    "tenacity": {"hosts.host_job", "tasks.ending"},
    "openpyxl": {"prompts.tables"},
    "pyarrow": {"prompts.arrow", "reports.arrow"},
    "fsspec": {"prompts.remote"},
    "ray": {"runs.ray_node", "runs.ray_run"},
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


@cache
def imported(module: str) -> frozenset[str]:
    """Dotted names of all that a module imports, also inside functions; `from a import b` as a.b."""
    path = MODULES[module]
    package = ("src", *path.relative_to(SRC).parent.parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def own(module: str) -> frozenset[str]:
    """The modules of src that a module imports, by the longest name that is one."""
    found = set()
    for name in imported(module):
        if name.startswith("src."):
            parts = name.removeprefix("src.").split(".")
            found.add(next((n for k in range(len(parts), 0, -1) if (n := ".".join(parts[:k])) in MODULES), ""))
    return frozenset(found - {""})


def package_of(module: str) -> str:
    return module.split(".")[0]


def roots(names: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def cyclic(graph: dict[str, set[str]]) -> list[str]:
    """The nodes that are part of a cycle, or lead to one."""
    rest = dict(graph)
    while free := [name for name, needs in rest.items() if not needs & rest.keys() - {name}]:
        rest = {name: needs for name, needs in rest.items() if name not in free}
    return sorted(rest)


def test_modules_import_only_allowed_packages() -> None:
    wrong = {}
    for module in MODULES:
        package = package_of(module)
        below = FOR_ALL if package != "worker" else set()
        allowed = TOP[module] if module in TOP else MAY_IMPORT[package] | below
        if more := {package_of(name) for name in own(module)} - {package, "worker"} - allowed:
            wrong[module] = more
    assert not wrong


def test_worker_is_imported_through_its_protocol() -> None:
    wrong = {}
    for module in (name for name in MODULES if package_of(name) != "worker"):
        allowed = set() if module in TOP else OF_WORKER | MORE_OF_WORKER.get(module, set())
        if more := {name for name in own(module) if package_of(name) == "worker"} - allowed:
            wrong[module] = more
    assert not wrong


def test_modules_do_not_import_each_other_cyclically() -> None:
    assert cyclic({module: set(own(module)) for module in MODULES}) == []


def test_table_of_packages_has_no_cycle() -> None:
    assert cyclic(MAY_IMPORT) == []


def test_every_package_has_a_docstring() -> None:
    packages = [path for path in FILES if path.name == "__init__.py" and path.parent != SRC]
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in packages)


@pytest.mark.parametrize("dependency", HOMES)
def test_heavy_dependency_is_imported_only_at_home(dependency: str) -> None:
    users = {module for module in MODULES if dependency in roots(imported(module))}
    assert users <= HOMES[dependency]


def test_worker_needs_only_the_standard_library() -> None:
    known = {*sys.stdlib_module_names, "__future__", "src"}
    foreign = {name: roots(imported(name)) - known for name in MODULES if package_of(name) == "worker"}
    also = {
        "worker.facts": {"numpy", "PIL"},
        "worker.answer_form": {"fastjsonschema"},  # travels with it
        "worker.encoder": {"tiktoken", "tokenizers"},  # where they are there
    }
    assert {name: wrong for name, found in foreign.items() if (wrong := found - also.get(name, set()))} == {}
