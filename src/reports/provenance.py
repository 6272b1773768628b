"""What each answer was made of (output.exports=[provenance]), and whether a run folder still is what that says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import file_sha256
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings
from ..run_folder import RunPaths
from ..worker.answer_form import why_invalid
from ..worker.protocol import UPSAMPLED, Outcome
from .rows import Row, read_rows

Line = dict[str, Any]
_TEXTS = ("*.json", "*.txt")  # of a checkpoint, which are hashed; of its weights only names and sizes are


def lines_of(plan: Plan, table: Sequence[Row], outcomes: Mapping[str, Outcome]) -> Iterator[Line]:
    """One line per item, in order; sha256 is that of the rest of its line."""
    shared = _of_the_run(plan.settings)
    for item, row in zip(plan.items, table, strict=True):
        line = _line(item, row, outcomes.get(item.id), plan.settings) | shared
        yield line | {"sha256": _hash(line)}


def _line(item: PlanItem, row: Row, outcome: Outcome | None, settings: Settings) -> Line:
    outcome = outcome or Outcome(item.id, row["state"], row["reason"])
    used = outcome.attempts[-1 if outcome.used is None else outcome.used] if outcome.attempts else None
    return {
        "id": item.id, "name": item.name, "state": row["state"], "prompt": item.prompt,
        "clip": {"path": item.video.path, "sha256": item.video.sha256} if item.video else None,
        "frames": [frame.sha256 for frame in outcome.frames],
        "messages_sha256": _hash([item.system, item.text]),
        "server": {"engine": outcome.engine.name, "version": outcome.engine.version, "url": settings.engine.base_url},
        "seed": used.seed if used else None, "max_tokens": used.max_tokens if used else None,
        "attempts": [attempt.failed_check or "" for attempt in outcome.attempts],
        "raw_answer": outcome.text if outcome.raw is None else outcome.raw, "reasoning": outcome.reasoning,
        "answer": outcome.text, "negative_prompt": outcome.negative, "flags": list(outcome.flags),
        "seconds": outcome.seconds.total, "ended": _moment(outcome.at),
        "review": review["verdict"] if (review := row.get("review")) else None,
    }  # fmt: skip


def _moment(at: float) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds") if at else None


def _of_the_run(settings: Settings) -> Line:
    target, model = settings.target, settings.model
    fields = json.loads(target.answer.fields or "{}") | dict(model.request_fields)
    return {
        "target": {"name": target.name, "hash": target.hash},
        "template": {"name": settings.template, "hash": target.messages},
        "model": {"name": model.name, "checkpoint": model.checkpoint, "hash": checkpoint_hash(model.checkpoint)},
        "sampling": {"temperature": settings.temperature, "seed": settings.seed, **fields},
    }


@lru_cache(maxsize=8)
def checkpoint_hash(folder: str) -> str | None:
    """Hash of a checkpoint: of its small files, and of names and sizes of the others. None where it is not on this machine."""
    root = Path(folder).expanduser()
    if not folder or not root.is_dir():
        return None
    texts = {file for pattern in _TEXTS for file in root.glob(pattern)}
    return _hash(
        [
            (file.name, file_sha256(file) if file in texts else file.stat().st_size)
            for file in sorted(root.iterdir())
            if file.is_file()
        ]
    )


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def problems_of(plan: Plan, outcomes: Mapping[str, Outcome], paths: RunPaths, counts: dict[str, int]) -> Iterator[str]:
    """Where a run folder is not what its provenance says. counts: of what was compared, filled in. Raises InputError."""
    rows, number = read_rows(paths.results), 0
    for number, line in enumerate(read_lines(paths.provenance), start=1):
        if number > len(plan.items):
            continue
        item, row = plan.items[number - 1], rows[number - 1] if number <= len(rows) else None
        for problem in _wrong_with(line, item, row, outcomes.get(item.id), plan.settings, counts):
            yield f"{item.name}: {problem}"
    counts["items"] = number
    if not number == len(plan.items) == len(rows):
        yield f"{number} lines, {len(plan.items)} items in plan.json, {len(rows)} in results.json"
    for file, found in _files(plan, rows, paths).items():
        if file.exists():
            counts["files"] = counts.get("files", 0) + 1
            if file_sha256(file) != found:
                yield f"{file}: has changed"
        elif paths.root in file.parents:  # a clip may be kept elsewhere, what the run made may not
            yield f"{file}: is gone"


def _wrong_with(
    line: Line, item: PlanItem, row: Row | None, outcome: Outcome | None, settings: Settings, counts: dict[str, int]
) -> Iterator[str]:
    if line.get("sha256") != _hash({key: value for key, value in line.items() if key != "sha256"}):
        yield "its line has changed"
        return
    outcome = outcome or Outcome(item.id, line["state"])
    for name, recorded, found in (
        ("id", line["id"], item.id), ("prompt", line["prompt"], item.prompt),
        ("messages", line["messages_sha256"], _hash([item.system, item.text])),
        ("name", line["name"], row and row["name"]), ("original prompt", line["prompt"], row and row["original_prompt"]),
        ("state", line["state"], row and row["state"]), ("answer", line["answer"], outcome.text),
        ("frames", line["frames"], [frame.sha256 for frame in outcome.frames]),
        ("clip", (line["clip"] or {}).get("sha256"), item.video and item.video.sha256),
        ("target", line["target"]["hash"], settings.target.hash),
    ):  # fmt: skip
        if recorded != found:
            yield f"{name}: another one than recorded"
    if line["state"] == UPSAMPLED and line["answer"] is not None:
        counts["answers"] = counts.get("answers", 0) + 1
        if row and line["review"] is None and row["upsampled_prompt"] != line["answer"]:
            yield "answer: another one in results.json"
        if wrong := _why_invalid(line["answer"], settings.target.answer.schema):
            yield f"answer: not of its schema: {wrong}"


def _why_invalid(answer: str, schema: str) -> str:
    try:
        return why_invalid(json.loads(answer), schema) if schema else ""
    except ValueError as e:
        return str(e)


def _files(plan: Plan, rows: Sequence[Row], paths: RunPaths) -> dict[Path, str]:
    """The clips and frames of a run, with their hashes."""
    clips = {Path(item.video.path): item.video.sha256 for item in plan.items if item.video}
    frames = {paths.root / frame["file"]: frame["sha256"] for row in rows for frame in row["frames"] if frame["file"]}
    return {**clips, **frames}


def read_lines(file: Path) -> Iterator[Line]:
    """Raises InputError for a file that is not there, or not one of these."""
    try:
        with open(file, encoding="utf-8") as f:
            for number, text in enumerate(f, start=1):
                line = json.loads(text)
                if not isinstance(line, dict) or "sha256" not in line:
                    raise ValueError(f"line {number} is none of this file")
                yield line
    except FileNotFoundError:
        raise InputError(
            f"{file}: there is no such file", hint="write it: task=report run=FOLDER output.exports=[provenance]"
        ) from None
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(
            f"{file}: cannot be read: {e}", hint="write it again: task=report run=FOLDER output.exports=[provenance]"
        ) from None
