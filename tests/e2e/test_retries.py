"""Items that come again: smaller after a refusal that names its limit, and on request after a failure. A FAKE server answers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.openai_server import FakeOpenAI, counted_by_frames
from tests.harness.pixtral import image_tokens
from tests.harness.program import plan_of, program, quoted, results_of, write_prompts


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    server = FakeOpenAI(pause_s=0)
    server.count = lambda body: counted_by_frames(body, text_tokens=1)
    yield server
    server.close()


@pytest.fixture
def overrides(fake: FakeOpenAI, tmp_path: Path, small: str) -> tuple[str, ...]:
    """A server that answers one request at a time, and a cache of its own, where limits are kept."""
    return (
        "engine=endpoint", f"engine.base_url={fake.url}", "engine.in_flight=1", "engine.max_attempts=1",
        f"cache_dir={quoted(tmp_path / 'cache')}", f"model.tokenizer={quoted(small)}",
    )  # fmt: skip


def prompts(folder: Path, clip: Path) -> str:
    file = folder / "prompts.json"
    file.write_text(json.dumps([{"name": "take", "prompt": "x", "video_path": str(clip)}]))
    return f"prompts={quoted(file)}"


def test_named_limit_leads_to_largest_fit(
    fake: FakeOpenAI, overrides: tuple[str, ...], clips: Path, tmp_path: Path
) -> None:
    """One refusal, one answer; the next plan knows the limit, and nothing is refused any more."""
    fake.limit = 2000
    fake.refusal = "This model's maximum context length is {limit} tokens; your prompt contains {counted} input tokens"
    given = (prompts(tmp_path, clips / "hd.mp4"), "upsample=native", "budget=8k", *overrides)
    run = tmp_path / "run"
    end = program(*given, f"hydra.run.dir={quoted(run)}")
    assert end.code == 0, end.err
    assert len(fake.asked) == 2
    [row] = results_of(run)
    used = row["tokens"]["measured"]
    assert row["tokens"]["predicted"] == used <= 2000 - 300 < used + 200  # nearly all of the room is used
    assert "2 x 1280x720 refused by the engine" in row["note"]
    again = program(*given, f"hydra.run.dir={quoted(tmp_path / 'again')}")
    assert again.code == 0, again.err
    assert len(fake.asked) == 3
    assert plan_of(tmp_path / "again")["settings"]["effective_len"] == 2000


def test_hint_at_its_smallest_size_loses_frames(
    fake: FakeOpenAI, overrides: tuple[str, ...], clips: Path, tmp_path: Path
) -> None:
    fake.limit = 300 + 3 + 1 + image_tokens(176, 98)  # one frame of about the smallest size
    end = program(prompts(tmp_path, clips / "hd.mp4"), *overrides, f"hydra.run.dir={quoted(tmp_path / 'run')}")
    assert end.code == 0, end.err
    [row] = results_of(tmp_path / "run")
    [frame] = row["frames"]
    assert min(map(int, frame["size"].split("x"))) >= 96


def test_failed_items_are_asked_again_on_request(
    fake: FakeOpenAI, overrides: tuple[str, ...], clips: Path, tmp_path: Path
) -> None:
    file, run = write_prompts(tmp_path / "prompts.json", clips / "wide.mp4", 3), tmp_path / "run"
    fake.count, fake.limit, fake.refusal = (lambda body: 7), 0, "the pictures cannot be read"
    end = program(f"prompts={quoted(file)}", f"hydra.run.dir={quoted(run)}", *overrides)
    assert end.code == 3, end.err
    assert {row["state"] for row in results_of(run)} == {"failed"}
    assert "retry=failed" in end.out
    asked, predicted = len(fake.asked), {item["text"]: item["tokens"]["prompt"] for item in plan_of(run)["items"]}
    assert program(f"resume={quoted(run)}").code == 3
    assert len(fake.asked) == asked  # not without a request
    fake.expected = predicted
    fake.count, fake.limit = (lambda body: predicted[body["messages"][-1]["content"][-1]["text"]]), math.inf
    again = program(f"resume={quoted(run)}", "retry=failed")
    assert again.code == 0, again.err
    assert len(fake.asked) == asked + 3
    assert {row["state"] for row in results_of(run)} == {"upsampled"}
    assert "retry=failed" not in again.out
