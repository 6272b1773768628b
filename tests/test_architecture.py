"""The layers and the homes of heavy packages, as a table."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Module -> our modules that it may import. What acts on a plan never sees the config.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "commands": set(),
    "durations": set(),
    "geometry": set(),
    "sampling": set(),
    "batches": set(),
    "paths": {"errors"},
    "log": set(),
    "tokens": {"errors", "geometry", "paths"},
    "video": {"errors", "geometry"},
    "frames": {"errors", "sampling", "video"},
    "datasets": {"errors"},
    "specs": {"datasets", "errors", "paths"},
    "drafts": {"errors", "paths", "specs", "video"},
    "plan": {"errors", "video"},
    "hints": {"errors", "frames", "plan", "video"},
    "progress": {"durations", "log"},
    "outcomes": {"log", "worker"},
    "offline": {"worker"},
    "phases": {"paths", "progress"},
    "history": {"paths"},
    "work": {"hints", "plan", "video"},
    "timings": {"durations", "history", "phases", "plan", "work"},
    "account": {"durations", "gpus", "phases", "plan", "timings"},
    "jobs": {"containers", "errors", "geometry", "hints", "outcomes", "paths", "plan", "tokens", "video", "worker"},
    "hosts": {"errors"},
    "ssh": {"errors", "hosts", "plan"},
    "transfer": {"errors", "hosts"},
    "containers": {"gpus", "plan"},
    "host_site": {"containers", "errors", "gpus", "hosts", "jobs", "log", "paths", "plan", "ssh", "transfer", "worker"},
    "gpus": set(),
    "pages": set(),
    "envelope": {"errors", "paths", "plan"},
    "limits": {"envelope", "geometry", "outcomes", "plan", "tokens"},
    "matrix": {"geometry", "limits", "pages", "paths", "tokens"},
    "test_card": {"errors", "geometry"},
    "shards": {"gpus", "plan"},
    "local_site": {"containers", "gpus", "errors", "jobs", "plan", "worker"},
    "sites": {"containers", "host_site", "jobs", "local_site", "plan"},
    "inference": {"containers", "plan", "specs"},
    "resolve_inference": {"config", "errors", "gpus", "inference", "plan", "resolve"},
    "follow": {"commands", "containers", "errors", "jobs", "log", "paths", "progress", "sites"},
    "generate": {
        "errors",
        "follow",
        "host_site",
        "infer",
        "inference",
        "jobs",
        "log",
        "paths",
        "plan",
        "progress",
        "sites",
        "worker",
    },
    "leftovers": {"containers", "errors", "host_site", "hosts", "plan", "transfer"},
    "execute": {
        "errors",
        "follow",
        "jobs",
        "log",
        "outcomes",
        "paths",
        "plan",
        "progress",
        "shards",
        "sites",
        "worker",
    },
    "results": {"hints", "outcomes", "paths", "plan", "specs", "video"},
    "exports": {"datasets", "errors", "geometry", "hints", "jobs", "log", "outcomes", "paths", "plan", "worker"},
    "reviews": {"errors", "outcomes", "worker"},
    "compare": {"errors", "outcomes", "paths", "plan"},
    "report": {"account", "compare", "outcomes", "pages", "paths", "results", "reviews"},
    "tables": {"drafts", "durations", "geometry", "log", "outcomes", "paths", "plan", "tokens"},
    "resolve": {
        "batches",
        "config",
        "datasets",
        "envelope",
        "errors",
        "geometry",
        "gpus",
        "plan",
        "sampling",
        "specs",
        "tokens",
        "video",
    },
    "sweep": {"config", "errors", "log", "paths", "tasks"},
    "run": {"commands", "config", "errors", "log", "paths", "sweep", "tasks"},
}
HOMES = {
    "hydra": {"run", "config", "sweep"},
    "omegaconf": {"run", "config", "sweep"},
    "av": {"video", "frames", "hints"},
    "mistral_common": {"tokens"},
    "tiktoken": {"tokens"},
    "jinja2": {"pages", "resolve"},
    "sqlite3": {"outcomes"},
    "fabric": {"ssh"},
    "paramiko": {"ssh"},
    "tenacity": {"host_site"},
    "pyarrow": {"datasets"},
    "vllm": set(),
    "moviepy": {"test_card"},
    "matplotlib": {"matrix"},
}
MODULES = sorted((ROOT / "src").glob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = node.module in ("src", "launchers")
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {node.module}
    return names


@pytest.mark.parametrize("path", [p for p in MODULES if p.stem != "__init__"], ids=lambda p: p.stem)
def test_module_imports_only_what_its_layer_may(path: Path) -> None:
    ours = {name.split(".")[1] for name in imported(path) if name.startswith(("src.", "launchers."))}
    assert ours - {"__version__"} <= MAY_IMPORT[path.stem]


@pytest.mark.parametrize("package", HOMES)
def test_heavy_package_is_imported_only_in_its_home(package: str) -> None:
    users = {p.stem for p in (ROOT / "src").rglob("*.py") if package in {n.split(".")[0] for n in imported(p)}}
    assert users <= HOMES[package]


def test_worker_imports_the_standard_library_only() -> None:
    foreign = {n.split(".")[0] for n in imported(ROOT / "launchers" / "worker.py")} - set(sys.stdlib_module_names)
    assert foreign <= {"__future__"}


def test_inference_runner_imports_the_standard_library_and_its_neighbour_only() -> None:
    foreign = imported(ROOT / "launchers" / "infer.py") - {"launchers.worker", "worker"}
    assert {name.split(".")[0] for name in foreign} - set(sys.stdlib_module_names) <= {"__future__"}


def test_table_of_layers_has_no_cycle() -> None:
    order: list[str] = []
    rest = dict(MAY_IMPORT)
    while rest:
        free = [m for m, needs in rest.items() if needs <= {*order, "worker", "infer", "tasks"}]
        assert free, f"cycle among {sorted(rest)}"
        order += free
        rest = {m: n for m, n in rest.items() if m not in free}
