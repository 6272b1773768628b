"""The recipes of docs/recipes.md, run over the results of a run; packages that are not here are stood in for by mocks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from tests.conftest import ROOT
from tests.harness.rows import row

RECIPES = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / "recipes.md").read_text(), re.MULTILINE | re.DOTALL)
PANDAS, LABEL_STUDIO, EDITS, ARGILLA, WANDB = RECIPES


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = [
        row("boat", original_prompt="a boat", upsampled_prompt="A boat at dusk.", video_path="boat.mp4"),
        row("gone", id="b2", original_prompt="a car", upsampled_prompt=None, state="kept", reason="no video"),
    ]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    return tmp_path


def test_pandas_lists_open_items(run: Path) -> None:
    pytest.importorskip("pandas")
    exec(PANDAS, {"run": run})
    assert (run / "open.csv").read_text() == "name,reason\ngone,no video\n"


def test_label_studio_goes_there_and_back(run: Path) -> None:
    exec(LABEL_STUDIO, {"run": run})
    tasks = json.loads((run / "label_studio.json").read_text())
    assert [task["data"]["item"] for task in tasks] == ["boat", "gone"]
    texts = [task["predictions"][0]["result"][0]["value"]["text"][0] for task in tasks]
    assert texts == ["A boat at dusk.", "a car"]
    exported = [
        task["data"] | {"id": n, "text": f"{text}!"} for n, (task, text) in enumerate(zip(tasks, texts, strict=True))
    ]
    (run / "export.json").write_text(json.dumps(exported))
    exec(EDITS, {"run": run})
    assert json.loads((run / "edits.json").read_text()) == {"boat": "A boat at dusk.!", "gone": "a car!"}


def test_trackers_get_every_row(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, argilla, dataset = MagicMock(), MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "argilla", argilla)
    exec(WANDB, {"run": run})
    columns, table = wandb.Table.call_args.args
    assert [dict(zip(columns, cells, strict=True))["upsampled_prompt"] for cells in table] == ["A boat at dusk.", None]
    exec(ARGILLA, {"run": run, "dataset": dataset})
    assert [call.kwargs["fields"]["answer"] for call in argilla.Record.call_args_list] == ["A boat at dusk.", ""]
    assert len(dataset.records.log.call_args.args[0]) == 2
