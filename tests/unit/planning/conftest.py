"""What the tests of planning share: configs over items, and their plans."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config import Config
from src.planning.plan import Plan, PlanItem
from src.planning.resolve import resolve
from tests.conftest import Configure

Item = dict[str, Any]
ConfigFor = Callable[..., Config]
Planned = Callable[..., Plan]
ITEMS: list[Item] = [
    {"name": "wide", "prompt": "A red car", "video_path": "wide.mp4", "mood": "grim"},
    {"name": "ευρύ 红色 🚗", "prompt": 'Ein "blaues" Auto,\n红色的 🚗\u2028 \\ end', "video_path": "hd.mp4"},
    {"name": "text only", "prompt": "no clip"},
    {"name": "no prompt", "video_path": "portrait.mp4"},
    {"name": "missing", "prompt": "x", "video_path": "nowhere.mp4"},
]


def over(clip: Path, prompt: str = "A red car") -> list[Item]:
    """One item over a clip."""
    return [{"prompt": prompt, "video_path": str(clip)}]


def only_item(plan: Plan) -> PlanItem:
    (item,) = plan.items
    return item


@pytest.fixture
def config_for(configure: Configure, tmp_path: Path) -> ConfigFor:
    """A function from items and overrides to a config whose prompt file has these items."""

    def configured(items: list[Item], *overrides: str, exact: bool = False) -> Config:
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps(items, ensure_ascii=False))
        config = configure(*overrides, exact=exact)
        config.prompts = str(file)
        return config

    return configured


@pytest.fixture
def planned(config_for: ConfigFor, clips: Path) -> Planned:
    """A function from overrides and items to a plan; video paths are relative to the folder of the clips."""

    def resolved(*overrides: str, items: list[Item] = ITEMS, folder: Path = clips) -> Plan:
        found = [
            item | {"video_path": str(folder / item["video_path"])} if "video_path" in item else item for item in items
        ]
        return resolve(config_for(found, *overrides))

    return resolved
