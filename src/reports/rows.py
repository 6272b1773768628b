"""Rows of results.json, and what the report flags. Pure."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ..errors import InputError
from ..line_file import LineFile
from ..line_json import parsed_line
from ..media.hint import HINT_VIDEO, Hint, hint_name, hint_times
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings, fields_of
from ..run_folder import RunPaths
from ..text import run_command
from ..worker.answer_form import CHECKS
from ..worker.protocol import UPSAMPLED, Outcome, fallback_state
from ..worker.records import from_json
from ..worker.values import Relative


class RowTokens(TypedDict):
    """`tokens` of a row: predicted for the whole request, measured by the engine, of the answer, and what they consist of."""

    predicted: int
    measured: int | None
    output: int | None
    image: int
    text: int
    output_reserved: int
    linear_estimate: int


class RowFrame(TypedDict):
    """A frame as it was sent; size: "WIDTHxHEIGHT"; file: where it is, below the run folder."""

    sha256: str
    bytes: int
    size: str
    file: Relative | None


class Review(TypedDict):
    """The verdict about a row; answer: the engine's text, where it was edited or rejected."""

    verdict: str
    at: str
    reason: NotRequired[str]
    note: NotRequired[str]
    answer: NotRequired[str | None]


class Row(TypedDict):
    """A row of results.json. Keys are never renamed without a new version."""

    id: str
    name: str
    original_prompt: str
    upsampled_prompt: str | None
    video_path: str | None
    preprocessed_video: str | None
    state: str
    reason: str
    note: str
    attempts: int
    engine: str
    tokens: RowTokens
    finish_reason: str | None
    seconds: float | None
    frames: list[RowFrame]
    shrunk_from: str | None
    flags: list[str]
    negative_prompt: NotRequired[str]
    review: NotRequired[Review | None]


class ReportRow(Row):
    """A row with what the report shows beside it: source clip, hint as it was sent, and where the frames are."""

    source: dict[str, Any] | None
    hint: dict[str, Any] | None
    frame_files: list[str]


CLIP_PICTURES = 4  # of a whole clip, in reports
STANDALONE_ITEMS = 1000  # a report of more has files beside it
FLAGS = ("asked again", "cut off", "smaller hint", "text only", "unverified", *CHECKS)


class HintFolders:
    """The hints in a run folder, each looked at once. find: called before with a hint, and where it is to be."""

    def __init__(self, paths: RunPaths, find: Callable[[Video, Hint, Path], None] = lambda video, hint, folder: None):
        self._paths, self._find = paths, find
        self._known: dict[str, tuple[str | None, str | None]] = {}

    def of(self, used: tuple[Video, Hint] | None) -> tuple[str | None, str | None]:
        """A hint's folder and its video, below the run folder; None for what is not there."""
        if not used:
            return None, None
        name = hint_name(*used)
        if name not in self._known:
            folder = self._paths.hints / name
            self._find(*used, folder)
            below = folder.relative_to(self._paths.root).as_posix()
            # An answer from the cache may have a hint that no longer exists.
            video = f"{below}/{HINT_VIDEO}" if (folder / HINT_VIDEO).exists() else None
            self._known[name] = (below if folder.exists() else None, video)
        return self._known[name]


def result_rows(plan: Plan, outcomes: Mapping[str, Outcome], hints: HintFolders, unfinished: str) -> Iterator[Row]:
    """The rows of results.json in input order; `unfinished` is the reason for items that did not end."""
    for item, outcome in items_as_they_ended(plan, outcomes, unfinished):
        yield row_of(item, outcome, hints, plan.settings)


def items_as_they_ended(
    plan: Plan, outcomes: Mapping[str, Outcome], unfinished: str
) -> Iterator[tuple[PlanItem, Outcome]]:
    for item in plan.items:
        yield item, outcome_of(item, outcomes, unfinished)


def outcome_of(item: PlanItem, outcomes: Mapping[str, Outcome], unfinished: str) -> Outcome:
    """How an item ended; `unfinished` is the reason for one that did not."""
    return outcomes.get(item.id) or Outcome(item.id, fallback_state(item.prompt), unfinished)


def row_of(item: PlanItem, outcome: Outcome, hints: HintFolders, settings: Settings) -> Row:
    """The row of one item."""
    used = hint_used(item, outcome, text_only=settings.model.text_only)
    hint, video = hints.of(used)
    row: Row = {
        "id": item.id,
        "name": item.name,
        "original_prompt": item.prompt,
        "upsampled_prompt": outcome.text if outcome.state == UPSAMPLED else None,
        "video_path": item.video_path,
        "preprocessed_video": video,
        "state": outcome.state,
        "reason": outcome.reason,
        "note": "; ".join(note for note in (item.note, outcome.note, *outcome.flags) if note),
        "attempts": len(outcome.attempts),
        "engine": outcome.engine.name or settings.engine.name,
        "tokens": {
            "predicted": outcome.tokens.predicted or item.tokens.prompt,
            "measured": outcome.tokens.measured,
            "output": outcome.tokens.output,
            "image": item.tokens.image,
            "text": item.tokens.text,
            "output_reserved": item.tokens.output_reserved,
            "linear_estimate": item.linear_estimate,
        },
        "finish_reason": outcome.finish_reason,
        "seconds": outcome.seconds.total,
        "frames": [
            {
                "sha256": frame.sha256,
                "bytes": frame.bytes,
                "size": frame.size,
                "file": f"{hint}/{HINT_VIDEO if used and used[1].clip_fps else f'frame_{n}.png'}" if hint else None,
            }
            for n, frame in enumerate(outcome.frames, start=1)
        ],
        "shrunk_from": item.shrunk_from,
        "flags": list(flags_of(item, outcome, used)),
    }
    if outcome.negative:
        row["negative_prompt"] = outcome.negative
    return row


def flags_of(item: PlanItem, outcome: Outcome, used: tuple[Video, Hint] | None) -> Iterator[str]:
    """What may need attention: more than one attempt, an answer that was cut off, a hint smaller than the recipe asked for, or
    a request without frames. used: the clip and the hint that the engine saw."""
    if len(outcome.attempts) > 1:
        yield "asked again"
    if outcome.finish_reason == "length" or any("cut off" in (a.failed_check or "") for a in outcome.attempts):
        yield "cut off"
    if outcome.frames and (item.shrunk_from or (used and used[1] != item.hint)):
        yield "smaller hint"
    if outcome.attempts and not outcome.frames:
        yield "text only"
    if item.unverified:
        yield "unverified"
    for flag in outcome.flags:
        yield flag.partition(":")[0]


def read_rows(file: Path, *, is_own: bool = False) -> Sequence[Row]:
    """The rows of a results.json, which are read when they are asked for. Raises InputError then, for what is not a row.

    is_own: it is as this program wrote it.
    """

    def row_in(n: int, data: bytes) -> Row:
        try:
            return cast(Row, parsed_line(data)) if is_own else from_json(Row, json.loads(data), f"row {n}")
        except (ValueError, RecursionError) as e:
            raise _unreadable(file, e) from None

    starts = array("q")
    with open(file, "rb") as f:
        if f.readline() != b"[\n":  # written by something else
            try:
                return list(from_json(tuple[Row, ...], json.loads(file.read_bytes())))
            except (ValueError, RecursionError) as e:
                raise _unreadable(file, e) from None
        starts.append(f.tell())
        for line in f:
            if line == b"]\n":
                return LineFile(file, starts, lambda n, line: row_in(n, line.rstrip(b",\n")))
            if line != b"\n":
                starts.append(starts[-1] + len(line))
    raise _unreadable(file, ValueError("its end is missing"))


def _unreadable(file: Path, error: Exception) -> InputError:
    return InputError(
        f"{file}: cannot be read: {error}", hint=f"write it again: {run_command('task=report run', file.parent)}"
    )


class ReportRows(Iterable[ReportRow]):
    """The rows with what the report shows beside them, made when they are asked for."""

    def __init__(self, plan: Plan, table: Iterable[Row], paths: RunPaths) -> None:
        self._plan, self._table, self._root = plan, table, paths.root.absolute()

    def __iter__(self) -> Iterator[ReportRow]:
        for item, row in zip(self._plan.items, self._table, strict=True):
            yield report_row(item, row, self._root)


def report_row(item: PlanItem, row: Row, root: Path) -> ReportRow:
    """A row with what the report shows beside it; root: the run folder, absolute."""
    hint = item.hint if item.video else None
    if item.video and hint and row["frames"]:
        hint = hint_sent(item.video, hint, len(row["frames"]), row["frames"][0]["size"])
    files = frame_files(root, row) or _measured_files(root, row)
    source = fields_of(item.video) if item.video else None
    return {**row, "source": source, "hint": fields_of(hint) if hint else None, "frame_files": files}


@lru_cache(maxsize=65_536)  # many items share a hint
def _absolute(root: Path, file: str) -> str:
    return os.path.abspath(root / file)


def _measured_files(root: Path, row: Row) -> list[str]:
    """The frames that were measured for a model that saw none: beside the video made of them."""
    video = row["preprocessed_video"]
    return [os.path.abspath(file) for file in sorted((root / video).parent.glob("frame_*.png"))] if video else []


def frame_files(root: Path, row: Row) -> list[str]:
    """The pictures of a row as absolute paths, in order; of a clip that was sent as a whole some of its frames, evenly."""
    files = [_absolute(root, frame["file"]) for frame in row.get("frames", ()) if frame["file"]]
    if len(files) != 1 or os.path.basename(files[0]) != HINT_VIDEO:
        return files
    frames = sorted(Path(files[0]).parent.glob("frame_*.png"), key=lambda path: int(path.stem.split("_")[1]))
    shown = min(len(frames), CLIP_PICTURES)
    return [str(frames[n * (len(frames) - 1) // max(shown - 1, 1)]) for n in range(shown)]


def hint_used(item: PlanItem, outcome: Outcome, *, text_only: bool = False) -> tuple[Video, Hint] | None:
    """The clip and the hint that the engine saw: the planned one, or a smaller one when that was refused. text_only: the
    one that was measured for it."""
    if text_only and item.video and item.hint:
        return item.video, item.hint
    if not (item.video and item.hint and outcome.frames):
        return None
    return item.video, hint_sent(item.video, item.hint, len(outcome.frames), outcome.frames[0].size)


@lru_cache(maxsize=65_536)
def hint_sent(video: Video, hint: Hint, frames: int, size: str) -> Hint:
    """A planned hint as the engine was sent it: so many frames, of this size ("WIDTHxHEIGHT")."""
    width, height = map(int, size.split("x"))
    frames = hint.frames if hint.clip_fps else frames
    times = hint.times_s if frames == hint.frames else hint_times(video, hint.rule, frames, hint.fps)
    return replace(hint, width_px=width, height_px=height, frames=frames, times_s=times)
