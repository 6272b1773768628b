"""Every command in the README and the guides is run, as it stands, in a fresh copy of the project; what they say about
the code and the config is held against both."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import pytest

from docs import make_reference
from src.config import Config
from tests.harness import sshd
from tests.harness.cosmos import Cosmos

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
PAGES = sorted((ROOT / "docs").glob("*.md"))
GUIDES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
COMMAND = re.compile(r"^(?: {4})?(python -m src\.run[^\n]*)$", re.MULTILINE)
NEEDS_MORE = ("engine=vllm", "engine=endpoint", "engine=cosmos")  # an engine that is not here: planned, not run
ASKS = ("task=trust", "task=clean")
SHOWN_FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, str]]:
    found = [(guide.name, command) for guide in GUIDES for command in COMMAND.findall(guide.read_text())]
    first: dict[str, str] = {}  # a command that several guides show is run once
    for name, command in found:
        first.setdefault(re.sub(r"\s+#.*", "", command).strip(), name)
    return [(name, command) for command, name in first.items()]


@pytest.fixture(scope="module")
def gpu_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    server = sshd.Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A copy of the project on a path with spaces and letters beyond ASCII, in which one run has been made."""
    copy = tmp_path_factory.mktemp("docs") / "ett försök, kopia"
    for name in ("conf", "src", "launchers", "examples"):
        ignore = shutil.ignore_patterns("__pycache__", "defaults.yaml")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    (copy / "outputs").mkdir()
    if not sshd.missing():  # the machine of the guides
        box = request.getfixturevalue("gpu_box")
        (copy / "conf" / "host" / "gpu_box.yaml").write_text(
            f"name: gpu_box\nkind: ssh\naddress: 127.0.0.1\nport: {box.port}\nuser: root\nkey_file: {box.key}\n"
            f"known_hosts: {box.folder}/known_hosts\nroot: {box.folder}/root\n"
        )
    Cosmos(copy.parent / "cosmos")  # what a pipeline finds in place of NVIDIA's: a stand-in
    for guide in GUIDES:
        for name, text in SHOWN_FILE.findall(guide.read_text()):
            (copy / name).parent.mkdir(exist_ok=True)
            (copy / name).write_text(text)
    subprocess.run([sys.executable, "-m", "src.run"], cwd=copy, check=True, capture_output=True)
    return copy


def test_there_are_commands_to_run() -> None:
    assert len(commands()) >= 15


@pytest.mark.e2e
@pytest.mark.parametrize(("guide", "command"), commands(), ids=lambda value: value.removeprefix("python -m src.run "))
def test_command_of_the_guide_works(guide: str, command: str, checkout: Path, request: pytest.FixtureRequest) -> None:
    finished = next(p.parent for p in sorted((checkout / "outputs").glob("*/*/results.json")))
    command = command.replace("outputs/DATE/TIME", str(finished.relative_to(checkout)))
    argv = [sys.executable, *shlex.split(command)[1:]]
    if "host=gpu_box" in command and sshd.missing():
        pytest.skip(sshd.missing())
    if "experiment=" in command:  # the points are planned; an engine would prove them
        argv += ["engine=offline", "image=none", "host=local", "quick=true"]
    elif any(word in command for word in NEEDS_MORE) and "task=doctor" not in command:
        argv = [word for word in argv if word != "task=pipeline"] + ["task=plan"]
    elif "inference.repository" in command:
        argv += stand_in(checkout.parent / "cosmos")
    if any(word in command for word in ASKS):
        argv += ["yes=true"]
    cluster = request.getfixturevalue("slurm").environment if "launcher=slurm" in command else None
    ended = subprocess.run(argv, cwd=checkout, capture_output=True, text=True, timeout=120, env=cluster)
    # task=plan says with 3 that something cannot be served, which some of the examples are there to show.
    # A doctor finds no GPU and no checkpoint on the machine of the tests, and says so with 4.
    # A run that another guide has reviewed ends with 3 when it is resumed: what was rejected is kept.
    allowed = (
        (0, 3)
        if "task=plan" in argv or "resume=" in command or "task=pipeline" in argv
        else (0, 4)
        if "task=doctor" in argv
        else (0,)
    )
    assert ended.returncode in allowed, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def stand_in(cosmos: Path) -> list[str]:
    """Overrides that put the stand-in in place of NVIDIA's script and checkpoints, after those of the guide."""
    names = {"repository": "cosmos transfer1", "checkpoint_dir": "checkpoints", "torchrun": "torchrun"}
    return [f'inference.{field}="{cosmos / name}"' for field, name in names.items()]


@pytest.mark.e2e
def test_plan_that_the_start_page_shows_is_the_plan_that_one_gets(checkout: Path) -> None:
    page = (ROOT / "docs" / "start.md").read_text()
    (shown,) = re.findall(r"^```text\n(item .*?)^```$", page, re.MULTILINE | re.DOTALL)
    argv = [sys.executable, "-m", "src.run", "task=plan", "prompts=mine/prompts.json"]
    planned = subprocess.run(argv, cwd=checkout, capture_output=True, text=True, timeout=120, check=True).stdout
    assert shown.splitlines() == [line.rstrip() for line in planned.splitlines()][: len(shown.splitlines())]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_links_of_the_guide_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", guide.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        page = guide.parent / path if path else guide
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_reference_is_what_the_schema_and_conf_say() -> None:
    assert make_reference.PAGE.read_text() == make_reference.page(), "run python -m docs.make_reference"


def test_reference_has_every_field_with_its_comment() -> None:
    lines = (ROOT / "docs" / "reference.md").read_text().splitlines()
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| `")]
    described = {cells[0].strip("`"): cells[-1] for cells in rows if len(cells) == 4}
    assert sorted(described) == sorted(fields(Config))
    assert [name for name, text in described.items() if not text] == []


def fields(kind: type, prefix: str = "") -> list[str]:
    """Dotted names of all values of a config class, as Python itself sees them."""
    found = []
    for name, inner in get_type_hints(kind).items():
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            found += fields(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def test_every_page_is_in_the_nav_of_the_site() -> None:
    nav = re.findall(r"^ +- [^#\n]*: (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(nav) == [page.name for page in PAGES]


def map_of_the_code() -> dict[str, list[str]]:
    """The map in CONTRIBUTING.md: each package or folder with the descriptions of its lines."""
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("## Map of the code")[2].partition("\n## ")[0]
    lines: dict[str, list[str]] = {}
    for name, description in re.findall(r"^\| `([\w/]+)` \| (.+) \|$", text, re.MULTILINE):
        lines.setdefault(name, []).append(description)
    return lines


def test_map_has_one_line_per_package() -> None:
    lines = map_of_the_code()
    packages = [p.parent.name for p in SRC.glob("*/__init__.py")]
    modules = [p.stem for p in SRC.glob("*.py") if p.stem != "__init__"]
    assert sorted(name for name in lines if not name.endswith("/")) == sorted(packages + modules)
    assert [name for name in lines if name.endswith("/") and not (ROOT / name).is_dir()] == []
    assert {name: len(found) for name, found in lines.items() if len(found) > 1} == {}


def test_map_names_modules_that_exist() -> None:
    for name, descriptions in map_of_the_code().items():
        folder = ROOT / name if name.endswith("/") else SRC / name
        inside = re.findall(r"\(([^()]*`[^()]*)\)", " ".join(descriptions))
        named = [word for part in inside for word in re.findall(r"`([\w./]+)`", part)]
        assert [n for n in named if not (folder / n).exists() and not (folder / f"{n}.py").exists()] == [], name


@pytest.mark.parametrize("guide", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_python_files_of_the_guide_exist(guide: str) -> None:
    text = (ROOT / guide).read_text()
    files = [f"/{path}" for folder in ("src", "tests", "docs", "examples") for path in (ROOT / folder).rglob("*.py")]
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text)
    assert named
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []
    folders = re.findall(r"`src/([a-z_/]+/)`", text)
    assert [name for name in folders if not (SRC / name).is_dir()] == []


def test_picture_names_packages_that_exist() -> None:
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    packages = re.findall(r'<text class="p"[^>]*>([^<]+)<', picture)
    modules = " ".join(re.findall(r'<text class="m"[^>]*>([^<]+)<', picture)).split()
    assert len(set(packages)) > 10
    assert [name for name in packages if not (SRC / name).is_dir() and not (SRC / f"{name}.py").exists()] == []
    names = {path.stem for path in SRC.rglob("*")}
    assert [name for name in modules if name not in names] == []


def test_every_mark_of_the_tests_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    marks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert [mark for mark in marks if f"| `{mark.partition(':')[0]}` |" not in text] == []
