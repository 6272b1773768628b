"""The command line before Hydra reads it: values that need quotes, and every override that the guides show."""

from __future__ import annotations

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from src.config import Config
from src.overrides import quoted
from tests.conftest import ROOT, composed
from tests.unit.test_docs import fields

GUIDES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
COMMAND = re.compile(r"^(?: {4}|\$ )?python -m src\.run( [^\n]*)?$", re.MULTILINE)
NO_OVERRIDES = ("device=", "group", "scale=", "title=")  # Docker's, a pattern for all, ffmpeg's, Markdown's
OWN_OPTIONS = ("host=gpu_box", "budget=12k")  # files that the guides tell the reader to write


def parsed(argument: str) -> Override:
    [override] = OverridesParser.create().parse_overrides(quoted([argument]))
    return override


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("host.gpus=device=0", "device=0"),
        ("host.gpus=device=0,2", "device=0,2"),
        ("image.env=[NAME=VALUE]", ["NAME=VALUE"]),
        ("image.env=[A=1, B=x=y]", ["A=1", "B=x=y"]),
        ("model.extra_args=[--limit={image: 2}]", ["--limit={image: 2}"]),
        ("prompts=my prompts/väder (2).json", "my prompts/väder (2).json"),
        ("prompts='a b.json'", "a b.json"),
        ("budget.max_model_len=8192", 8192),
        ("image.env=[]", []),
    ],
)
def test_value_arrives_as_it_was_typed(argument: str, value: object) -> None:
    assert parsed(argument).value() == value


@pytest.mark.parametrize(
    "argument", ["--multirun", "~local", "+x=1", "upsample=safe_320,best_fit", "a={b: 1}", "a=[1,2]", "a=null", "a="]
)
def test_what_hydra_can_read_is_left_alone(argument: str) -> None:
    assert quoted([argument]) == [argument]


def documented() -> list[str]:
    """Every override in a command of the guides and in a table or a sentence of them, as it is typed."""
    found = set()
    for guide in GUIDES:
        text = guide.read_text()
        for command in COMMAND.findall(text):
            found |= set(shlex.split(command, comments=True))
        for code in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*=[^`\s]*)`", text):
            found.add(code)
    return sorted(word for word in found if "=" in word and not word.startswith(("-", "hydra", *NO_OVERRIDES)))


# What stands for a value in the guides.
PLACEHOLDERS = {
    "PATH": "some/path", "FOLDER": "a_folder", "VLLM_PYTHON": "/opt/vllm/bin/python", "IMAGE": "an/image:1",
}  # fmt: skip


@pytest.mark.parametrize("argument", documented())
def test_documented_override_composes(argument: str) -> None:
    if argument in OWN_OPTIONS:
        pytest.skip("an option of the reader's own")
    key, _, value = argument.partition("=")
    if not value:  # the guides name the field alone
        assert key in (*fields(Config), *(group.name for group in (ROOT / "conf").iterdir()))
        return
    [typed] = quoted([f"{key}={PLACEHOLDERS.get(value, value)}"])
    override = OverridesParser.create().parse_override(typed)
    points = list(override.sweep_iterator()) if override.is_sweep_override() else [typed.partition("=")[2]]
    for point in points:
        assert isinstance(OmegaConf.to_object(composed(f"{key}={point}")), Config)
