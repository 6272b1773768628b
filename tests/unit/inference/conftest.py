"""Settings of inference, and plans over one clip."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.inference.configure import inference_settings
from src.inference.items import InferenceItem, inference_items
from src.inference.settings import InferenceSettings
from src.planning.plan import Plan
from src.planning.resolve import resolve
from tests.conftest import Configure

GIVEN = ("inference.checkpoint_dir=/models/cosmos", "inference.repository=/opt/cosmos-transfer1")
Planned = Callable[..., Plan]


@pytest.fixture
def settings(configure: Configure) -> InferenceSettings:
    return inference_settings(configure(*GIVEN), None)


@pytest.fixture
def planned(tmp_path: Path, configure: Configure, clips: Path) -> Planned:
    """A function from the fields of items to a plan; each has a prompt and the wide clip, unless its fields differ."""

    def resolved(*items: dict[str, Any]) -> Plan:
        complete = [
            {"name": f"n{n}", "prompt": "a boat", "video_path": str(clips / "wide.mp4")} | item
            for n, item in enumerate(items)
        ]
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps([{k: v for k, v in item.items() if v is not None} for item in complete]))
        config = configure()
        config.prompts = str(file)
        return resolve(config)

    return resolved


def only_item(plan: Plan, settings: InferenceSettings) -> InferenceItem:
    """The one item of a plan as inference uses it."""
    [item] = inference_items(plan.items, None, settings)
    return item
