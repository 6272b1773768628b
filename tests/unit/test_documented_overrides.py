"""Every override that the guides show is one that the program accepts, as it is typed there."""

from __future__ import annotations

import re
import shlex
from functools import cache

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from src.config import Config
from src.overrides import plain_spelling, quoted, with_lists
from tests.conftest import ROOT, composed
from tests.unit.test_docs import fields

GUIDES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
COMMAND = re.compile(r"^(?: {4}|\$ )?python -m src\.run( [^\n]*)?$", re.MULTILINE)
NO_OVERRIDES = ("device=", "group", "scale=", "title=")  # Docker's, a pattern for all, ffmpeg's, Markdown's
OWN_OPTIONS = (
    "host=gpu_box",
    "host=farm",
    "budget=12k",
    "target=storyboard",
)  # files that the guides tell the reader to write
PLACEHOLDERS = {
    "PATH": "some/path", "FOLDER": "a_folder", "VLLM_PYTHON": "/opt/vllm/bin/python", "IMAGE": "an/image:1",
}  # fmt: skip
GROUPS = {folder.relative_to(ROOT / "conf").as_posix() for folder in (ROOT / "conf").rglob("*") if folder.is_dir()}


def documented() -> list[str]:
    """The overrides of all commands, and those in sentences and tables."""
    found = set()
    for guide in GUIDES:
        text = guide.read_text()
        for command in (*COMMAND.findall(text), *re.findall(r"`upsample ([^`]+)`", text)):
            found |= set(shlex.split(command, comments=True))
        found |= set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)*=[^`\s]*)`", text))
    return sorted(word for word in found if "=" in word and not word.startswith(("-", "hydra", *NO_OVERRIDES)))


@cache
def parser() -> OverridesParser:
    return OverridesParser.create()


@cache
def config() -> DictConfig:
    """A config to set fields in: to compose one for each would take 0.1 s."""
    return OmegaConf.create(composed())


@pytest.mark.parametrize("argument", [word for word in documented() if word not in OWN_OPTIONS])
def test_documented_override_is_accepted(argument: str) -> None:
    key, _, value = plain_spelling(argument).partition("=")
    assert key in GROUPS or key in fields(Config)
    if not value:  # a sentence about the field
        return
    for typed in quoted(with_lists([f"{key}={PLACEHOLDERS.get(value, value)}"])):
        override = parser().parse_override(typed)
        key = override.get_key_element()
        for point in override.sweep_iterator() if override.is_sweep_override() else [override.value()]:
            if key in GROUPS:
                assert point is None or (ROOT / "conf" / key / f"{point}.yaml").is_file()  # test_config composes each
            else:
                OmegaConf.update(config(), key, point)  # which checks the type
