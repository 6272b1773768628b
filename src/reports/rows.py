"""Rows of results.json, and what the report flags. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..media.hint import HINT_VIDEO, Hint, hint_name
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.settings import fields_of
from ..run_folder import RunPaths
from ..runs.outcomes import UPSAMPLED, Outcome

Row = dict[str, Any]
FLAGS = ("asked again", "cut off", "smaller hint", "text only")


def result_rows(plan: Plan, outcomes: Mapping[str, Outcome], paths: RunPaths, unfinished: str) -> Iterator[Row]:
    """The rows of results.json in input order; `unfinished` is the reason given for items that did not end."""
    for item in plan.items:
        outcome = outcomes.get(item.id) or Outcome(item.id, "kept" if item.prompt.strip() else "failed", unfinished)
        used = hint_used(item, outcome)
        hint = paths.hints / hint_name(*used) if used else None
        if hint and not hint.exists():  # an answer from the cache whose hint is not there any more
            hint = None
        video = hint / HINT_VIDEO if hint and (hint / HINT_VIDEO).exists() else None
        yield {
            "id": item.id,
            "name": item.name,
            "original_prompt": item.prompt,
            "upsampled_prompt": outcome.text if outcome.state == UPSAMPLED else None,
            "video_path": item.video_path,
            "preprocessed_video": os.path.relpath(video, paths.root) if video else None,
            "state": outcome.state,
            "reason": outcome.reason,
            "note": outcome.note,
            "attempts": len(outcome.attempts),
            "engine": outcome.engine.get("name", plan.settings.engine.name),
            "tokens": {
                "predicted": outcome.tokens.get("predicted") or item.tokens.prompt,
                "measured": outcome.tokens.get("measured"),
                "output": outcome.tokens.get("output"),
                "image": item.tokens.image,
                "text": item.tokens.text,
                "output_reserved": item.tokens.output_reserved,
                "linear_estimate": item.tokens.linear_estimate,
            },
            "finish_reason": outcome.finish_reason,
            "seconds": outcome.seconds.get("total"),
            "frames": [
                {**frame, "file": os.path.relpath(hint / f"frame_{n}.png", paths.root) if hint else None}
                for n, frame in enumerate(outcome.frames, start=1)
            ],
            "shrunk_from": item.shrunk_from,
            "flags": list(flags_of(item, outcome)),
        }


def flags_of(item: PlanItem, outcome: Outcome) -> Iterator[str]:
    """What a person may want to look at: it was asked more than once, an answer of it was cut off, its hint was made
    smaller than the recipe asked for, or it was asked without frames."""
    if len(outcome.attempts) > 1:
        yield "asked again"
    if outcome.finish_reason == "length" or any("cut off" in (a.get("flaw") or "") for a in outcome.attempts):
        yield "cut off"
    used = hint_used(item, outcome)
    if outcome.frames and (item.shrunk_from or (used and used[1] != item.hint)):
        yield "smaller hint"
    if outcome.attempts and not outcome.frames:
        yield "text only"


def report_rows(plan: Plan, table: Sequence[Row], paths: RunPaths) -> list[Row]:
    """The rows with what the report shows beside them: source, hint as it was sent, and where the frames are."""
    extended = []
    for item, row in zip(plan.items, table, strict=True):
        hint = fields_of(item.hint) if item.hint and item.video else None
        if hint and row["frames"]:
            width, height = map(int, row["frames"][0]["size"].split("x"))
            hint |= {"width_px": width, "height_px": height}
        files = [os.path.abspath(paths.root / frame["file"]) for frame in row["frames"] if frame["file"]]
        source = fields_of(item.video) if item.video else None
        extended.append({**row, "source": source, "hint": hint, "frame_files": files})
    return extended


def hint_used(item: PlanItem, outcome: Outcome) -> tuple[Video, Hint] | None:
    """The clip and the hint that the engine saw: the planned one, or a smaller one when that was refused."""
    if not (item.video and item.hint and outcome.frames):
        return None
    width, height = map(int, outcome.frames[0]["size"].split("x"))
    return item.video, replace(item.hint, width_px=width, height_px=height)
