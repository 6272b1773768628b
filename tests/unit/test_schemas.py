"""The JSON Schemas for editors: as generated, and they accept what the program accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import fastjsonschema
import pytest
import yaml

from docs.make_schemas import FOLDER, PAGES
from tests.conftest import ROOT

GLOBAL = [file for file in sorted(ROOT.glob("conf/*/*.yaml")) if "@package _global_" in file.read_text()]


@lru_cache
def compiled(name: str) -> Callable[[Any], Any]:
    check: Callable[[Any], Any] = fastjsonschema.compile(json.loads((FOLDER / name).read_text()))
    return check


def accepts(name: str, value: Any) -> bool:
    try:
        compiled(name)(value)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


@pytest.mark.parametrize("name", PAGES)
def test_schema_is_up_to_date(name: str) -> None:
    assert json.loads((FOLDER / name).read_text()) == PAGES[name](), "run python -m docs.make_schemas"


@pytest.mark.parametrize("file", GLOBAL, ids=lambda file: file.stem)
def test_options_of_the_project_are_valid(file: Any) -> None:
    assert accepts("config.json", yaml.safe_load(file.read_text()))


@pytest.mark.parametrize(
    "wrong", [{"nosuch": 1}, {"frames": {"count": "two"}}, {"review": {"all": "maybe"}}, {"image": {"env": "A"}}]
)
def test_wrong_config_is_refused(wrong: dict[str, Any]) -> None:
    assert not accepts("config.json", wrong)


def test_prompts_are_described() -> None:
    examples = json.loads((ROOT / "examples" / "prompts.json").read_text())
    assert accepts("prompts.json", examples) and accepts("prompts.json", examples[0] | {"mood": "calm"})
    assert not accepts("prompts.json", [{"prompt": 3}]) and not accepts("prompts.json", ["a boat"])
