"""The real vLLM on the CPU with a tiny random Pixtral, as engine=endpoint meets it, and at the limits of what it accepts.

Needs an interpreter with vLLM, made by `launchers/vllm_env.sh DIR cpu` and named by the environment variable VLLM_PYTHON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import config_of
from tests.harness.program import journal_lines, program, quoted, results_of
from tests.harness.tiny_server import PATIENCE_S, TinyServers, assert_all_answered, write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.usefixtures("own_cache")]  # tmp_path / "cache"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_servers: TinyServers) -> Iterator[str]:
    """The override that names a vLLM server which runs already."""
    with tiny_servers.serve(config_of("model=tiny_random"), tmp_path_factory.mktemp("server")) as server:
        yield f"engine.base_url={server.url}"


def through_server(server: str, run: Path, *overrides: str) -> None:
    end = program(
        "engine=endpoint", server, "model=tiny_random", f"hydra.run.dir={quoted(run)}", "budget.max_output_tokens=32",
        f"cache_dir={quoted(run.parent / 'cache')}", *overrides, timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.out + end.err


def test_largest_hints_that_fit_are_accepted(server: str, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 14)
    through_server(server, tmp_path / "run", f"prompts={prompts}", "upsample=best_fit")
    assert_all_answered(tmp_path / "run", 14)


def test_system_message_is_counted_and_repeatable(server: str, tmp_path: Path) -> None:
    path = write_prompts(tmp_path, 7)
    items = json.loads(path.read_text())
    items[3].pop("video_path")  # without images the system message is joined to the text before it is counted
    path.write_text(json.dumps(items))
    for name in ("one", "two"):
        through_server(server, tmp_path / name, f"prompts={path}", "template=describe", "engine.in_flight=1")
        assert_all_answered(tmp_path / name, 7)
    texts = [[row["upsampled_prompt"] for row in results_of(tmp_path / name)] for name in ("one", "two")]
    assert texts[0] == texts[1]


def sweep_limits(folder: Path, *overrides: str) -> dict[str, dict[str, Any]]:
    """The points of a limits sweep by size; prediction and engine agree on all of them."""
    end = program(
        "--multirun", "task=limits", "model=tiny_random", *overrides, f"cache_dir={quoted(folder.parent / 'cache')}",
        f"hydra.sweep.dir={quoted(folder)}", timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert end.code == 0, end.err
    data = json.loads((folder / "matrix.json").read_text())
    assert data["agreement"]["measured"] == data["agreement"]["exact"] == len(data["points"]) == 4
    assert all(row["measured_tokens"] == row["prompt_tokens"] for row in data["points"])
    return {row["size"]: row for row in data["points"]}


def test_limits_of_engine_follow_token_rule(server: str, tmp_path: Path) -> None:
    """Sizes well inside and far beyond."""
    size = "size=320x180,640x480,1920x1056,360x203"
    rows = sweep_limits(tmp_path / "sizes", "engine=endpoint", server, size)
    assert rows["1920x1056"]["measured"] == "too_long"


def test_largest_size_is_found_by_search(tmp_path: Path, vllm_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one up, in both directions, with an engine that is loaded once for all points."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one process less to import vLLM
    folder = tmp_path / "edges"
    rows = sweep_limits(folder, "search=true", "aspect='16:9','9:16'", "engine=vllm", f"worker.python={vllm_python}")
    assert rows["910x512"]["measured"] == "accepted" and rows["912x514"]["measured"] == "no_room"
    assert "KV cache" in rows["910x512"]["memory"]
    events = [e for f in folder.glob("engines/*/job/*/events.jsonl") for e in journal_lines(f)]
    assert sum(e.get("phase") == "loading" for e in events) == 1
