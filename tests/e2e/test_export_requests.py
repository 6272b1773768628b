"""Exported requests are those that a worker sends to a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from src.planning.resolve import resolve
from src.reports import exports
from src.reports.rows import HintFolders, result_rows
from src.run_folder import RunPaths
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from tests.conftest import Configure
from tests.harness.openai_server import FakeOpenAI

pytestmark = pytest.mark.e2e


def test_exported_requests_equal_those_of_the_worker(configure: Configure, clips: Path, tmp_path: Path) -> None:
    fake = FakeOpenAI(pause_s=0)
    items: list[dict[str, Any]] = [
        {"prompt": "A boat, 雨 \u2028 🚤", "video_path": str(clips / "wide.mp4")},
        {"prompt": "A car.", "video_path": str(clips / "hd.mp4")},
        {"prompt": "No clip."},
        {"prompt": "Not a clip.", "video_path": str(clips / "text.mp4")},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(items))
    config = configure(
        *["engine=endpoint", f"engine.base_url={fake.url}", "video.on_bad_video=text_only"],
        "template.system='You see ${template.name}.'",
    )
    config.prompts, config.cache_dir = str(tmp_path / "prompts.json"), str(tmp_path / "cache")
    plan, paths = resolve(config), RunPaths(tmp_path / "run")
    fake.expected = {item.text: item.tokens.prompt for item in plan.items}
    paths.root.mkdir()
    try:
        ended = execute(plan, paths, Quiet())
    finally:
        fake.close()
    sent = [{k: v for k, v in body.items() if k not in ("stream", "stream_options")} for body in fake.asked]
    file = exports.write("openai", plan, list(result_rows(plan, ended, HintFolders(paths), "did not end")), paths)
    lines = [json.loads(line) for line in file.read_text(encoding="ascii").splitlines()]
    assert len(lines) == len(items)
    assert sorted((line["body"] for line in lines), key=str) == sorted(sent, key=str)
    assert [line["custom_id"] for line in lines] == [item.id for item in plan.items]
    assert {(line["method"], line["url"]) for line in lines} == {("POST", "/v1/chat/completions")}
