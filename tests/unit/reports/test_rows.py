"""Rows of results.json: how each item ended, and what is flagged about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.media.hint import HINT_VIDEO, hint_name
from src.planning.plan import Plan
from src.planning.resolve import resolve
from src.reports.rows import (
    FLAGS,
    HintFolders,
    ReportRows,
    RowFrame,
    flags_of,
    frame_files,
    hint_used,
    read_rows,
    result_rows,
)  # fmt: skip
from src.run_folder import RunPaths
from src.worker.protocol import KEPT, UPSAMPLED, Attempt, EngineUsed, Outcome, Seconds, SentFrame, TokenCounts
from tests.conftest import Configure


@pytest.fixture
def plan(configure: Configure, clips: Path, tmp_path: Path) -> Plan:
    """An item over a clip, one without a clip, and one without a clip or anything else that could be kept."""
    items = [
        {"name": "wide", "prompt": "A boat.", "video_path": str(clips / "wide.mp4")},
        {"name": "text", "prompt": "A car."},
        {"name": "bad", "video_path": str(clips / "text.mp4")},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(items))
    config = configure()
    config.prompts = str(tmp_path / "prompts.json")
    return resolve(config)


FRAMES = (SentFrame("ab", 5, "320x180"), SentFrame("cd", 6, "320x180"))


def answered(plan: Plan, **changes: Any) -> Outcome:
    """An answer for the first item of a plan, at its first attempt."""
    plain = Outcome(
        plan.items[0].id, UPSAMPLED, text="A long boat.", attempts=(Attempt(0, 300),), frames=FRAMES,
        engine=EngineUsed("vllm", "1"), tokens=TokenCounts(509, 509, 120), seconds=Seconds(total=3.0), finish_reason="stop",
    )  # fmt: skip
    return replace(plain, **changes)


def test_row_describes_plan_and_outcome(plan: Plan, tmp_path: Path) -> None:
    row = next(result_rows(plan, {plan.items[0].id: answered(plan)}, HintFolders(RunPaths(tmp_path / "run")), ""))
    assert (row["name"], row["state"], row["upsampled_prompt"]) == ("wide", "upsampled", "A long boat.")
    assert (row["engine"], row["attempts"], row["seconds"], row["finish_reason"]) == ("vllm", 1, 3.0, "stop")
    assert row["tokens"] == {
        "predicted": 509, "measured": 509, "output": 120, "image": 504, "text": plan.items[0].tokens.text,
        "output_reserved": 300, "linear_estimate": 1992,
    }  # fmt: skip
    assert [(frame["size"], frame["file"]) for frame in row["frames"]] == [("320x180", None)] * 2
    assert row["flags"] == []


def test_items_without_outcome_have_the_reason(plan: Plan, tmp_path: Path) -> None:
    """Their original prompts are kept; without one they failed."""
    found = list(result_rows(plan, {}, HintFolders(RunPaths(tmp_path / "run")), "stopped"))
    assert [(row["name"], row["state"], row["reason"]) for row in found] == [
        ("wide", "kept", "stopped"),
        ("text", "kept", "stopped"),
        ("bad", "failed", "stopped"),
    ]
    assert {row["engine"] for row in found} == {"offline"}


@pytest.mark.parametrize(
    ("changes", "flags"),
    [
        ({}, []),
        ({"attempts": (Attempt(0, 300, "echo of the prompt"), Attempt(1, 300))}, ["asked again"]),
        ({"attempts": (Attempt(0, 300, "cut off at 300 tokens"), Attempt(1, 600))}, ["asked again", "cut off"]),
        ({"finish_reason": "length"}, ["cut off"]),
        ({"frames": (SentFrame("ab", 5, "160x90"),) * 2}, ["smaller hint"]),
        ({"frames": ()}, ["text only"]),
        ({"state": KEPT, "attempts": (), "frames": ()}, []),
    ],
)
def test_flags_tell_what_may_need_attention(plan: Plan, changes: dict[str, Any], flags: list[str]) -> None:
    outcome = answered(plan, **changes)
    found = list(flags_of(plan.items[0], outcome, hint_used(plan.items[0], outcome)))
    assert found == flags
    assert set(found) <= set(FLAGS)


def test_shrunk_hint_is_flagged(plan: Plan) -> None:
    item = replace(plan.items[0], shrunk_from="1280x720")
    outcome = answered(plan)
    assert list(flags_of(item, outcome, hint_used(item, outcome))) == ["smaller hint"]


def test_hint_used_has_the_frames_sent(plan: Plan) -> None:
    item = plan.items[0]
    used = hint_used(item, answered(plan, frames=(SentFrame("ab", 5, "160x90"),) * 2))
    assert used and item.hint
    assert used == (item.video, replace(item.hint, width_px=160, height_px=90))
    one = hint_used(item, answered(plan, frames=FRAMES[:1]))
    assert one
    assert (one[1].frames, one[1].times_s) == (1, item.hint.times_s[:1])
    assert hint_used(item, answered(plan, frames=())) is None
    assert hint_used(item, answered(plan, frames=()), text_only=True) == (item.video, item.hint)


def test_frames_point_into_the_run_folder(plan: Plan, tmp_path: Path) -> None:
    paths, outcome = RunPaths(tmp_path / "run"), answered(plan)
    used = hint_used(plan.items[0], outcome)
    assert used
    name = hint_name(*used)
    (paths.hints / name).mkdir(parents=True)
    (paths.hints / name / "hint.mp4").touch()
    row = next(result_rows(plan, {outcome.id: outcome}, HintFolders(paths), ""))
    assert [frame["file"] for frame in row["frames"]] == [f"hints/{name}/frame_{n}.png" for n in (1, 2)]
    assert row["preprocessed_video"] == f"hints/{name}/hint.mp4"


def test_ReportRows_add_clip_and_hint(plan: Plan, tmp_path: Path) -> None:
    paths = RunPaths(tmp_path / "run")
    outcome = answered(plan, frames=(SentFrame("ab", 5, "160x90"),))
    wide, text, _ = ReportRows(plan, list(result_rows(plan, {outcome.id: outcome}, HintFolders(paths), "")), paths)
    assert wide["source"] and wide["hint"]
    assert (wide["source"]["width_px"], wide["hint"]["width_px"], wide["hint"]["height_px"]) == (320, 160, 90)
    assert (wide["hint"]["frames"], len(wide["hint"]["times_s"])) == (1, 1)
    assert (text["source"], text["hint"], text["frame_files"]) == (None, None, [])


def test_rows_are_read_back_equal(plan: Plan, tmp_path: Path) -> None:
    rows = list(result_rows(plan, {}, HintFolders(RunPaths(tmp_path / "run")), "stopped"))
    (tmp_path / "results.json").write_text(json.dumps(rows))
    assert read_rows(tmp_path / "results.json") == rows


def test_unverified_items_are_flagged(plan: Plan) -> None:
    item = replace(plan.items[0], unverified=True)
    assert "unverified" in flags_of(item, Outcome(item.id, UPSAMPLED), None)


def test_clip_sent_keeps_its_frames(plan: Plan) -> None:
    item = plan.items[0]
    assert item.hint
    clip = replace(item, hint=replace(item.hint, rule="clip", frames=9))
    used = hint_used(clip, Outcome(item.id, UPSAMPLED, frames=(SentFrame("", 1, "64x36"),)))
    assert used and (used[1].frames, used[1].width_px, used[1].clip_fps) == (9, 64, item.hint.fps)


def test_clip_is_shown_by_some_of_its_frames(plan: Plan, tmp_path: Path) -> None:
    row = next(result_rows(plan, {}, HintFolders(RunPaths(tmp_path)), ""))
    for n in range(1, 11):
        (tmp_path / f"frame_{n}.png").touch()
    clip: RowFrame = {"sha256": "", "bytes": 1, "size": "64x36", "file": HINT_VIDEO}
    files = frame_files(tmp_path, {**row, "frames": [clip]})
    assert [Path(file).name for file in files] == ["frame_1.png", "frame_4.png", "frame_7.png", "frame_10.png"]
    assert frame_files(tmp_path, {**row, "frames": [RowFrame(sha256="", bytes=1, size="64x36", file=None)]}) == []
