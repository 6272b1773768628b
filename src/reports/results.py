"""The files of every finished run: results.json, summary.csv, NVIDIA's batch.jsonl, updated specs."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from .. import log
from ..files import folder_atomic, open_atomic
from ..inference.engines.engine import Refused
from ..line_json import json_line
from ..media.hint import Hint, hint_key
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings, fields_of
from ..prompts.fields import VIDEO_FIELDS
from ..prompts.paths import find_file
from ..run_folder import RunPaths
from ..text import cell
from . import in_place, nvidia
from .rows import HintFolders, Row, read_rows


def linked_hints(plan: Plan, paths: RunPaths) -> HintFolders:
    """The hints in a run folder, which are put there when they are asked for: links where the file system has links."""
    cache = Path(plan.settings.cache_dir) / "hints"

    def link(video: Video, hint: Hint, target: Path) -> None:
        source = cache / hint_key(video, hint)
        if target.exists() or not source.exists():
            return
        aside = target.with_name(f".{target.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(source, aside, copy_function=_link_or_copy)
        os.replace(aside, target)

    return HintFolders(paths, link)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_exports(plan: Plan, rows: Iterable[tuple[PlanItem, Row]], paths: RunPaths, now: datetime) -> Sequence[Row]:
    """Write results.json, summary.csv, batch.jsonl and the updated specs, in one pass; each file appears whole. The rows that
    were written; the note of one that cannot be in batch.jsonl says why."""
    left_out: list[str] = []
    with ExitStack() as files:
        results, summary, batch = (
            files.enter_context(open_atomic(path)) for path in (paths.results, paths.summary, paths.batch)
        )
        summary_row, spec = _summary_writer(summary), _spec_writer(plan.settings, paths, now, files)
        results.write("[\n")
        for n, (item, row) in enumerate(rows):
            try:
                batch.write(json_line(_batch_line(item, row, plan.settings, paths)) + "\n")
            except Refused as e:
                left_out.append(f"{item.name}: {e}")
                if item.video:
                    row["note"] = "; ".join(filter(None, (row["note"], f"not in {paths.batch.name}: {e}")))
            results.write((",\n" if n else "") + json_line(row))
            summary_row(row)
            spec(item, row)
        results.write("\n]\n")
    if left_out:
        log.get().info("left_out_of_export", file=paths.batch.name, items=len(left_out), first=left_out[0])
    table = read_rows(paths.results, is_own=True)
    if plan.settings.spec_output == "in_place":
        in_place.update(
            plan, table, lambda item, row, raw: _additions(item, row, plan.settings, now, raw.get("metadata"))
        )
    return table


def _spec_writer(
    settings: Settings, paths: RunPaths, now: datetime, files: ExitStack
) -> Callable[[PlanItem, Row], object]:
    """The function that writes the updated spec of an item: into specs.jsonl, or a file of its own."""
    if settings.spec_output == "beside":
        out = files.enter_context(open_atomic(paths.specs_list))
        folder = paths.root if settings.paths == "relative" else None
        return lambda item, row: out.write(json_line(updated_spec(item, row, settings, now, folder), fields_of) + "\n")
    if settings.spec_output == "files":
        into = files.enter_context(folder_atomic(paths.specs))
        files.callback(os.sync)  # one for all files
        seen_from = paths.specs if settings.paths == "relative" else None

        def write(item: PlanItem, row: Row) -> None:
            given = as_prompt(item, seen_from)
            parts = nvidia.split(given, _additions(item, row, settings, now, given.get("metadata")))
            for name, part in zip((f"{item.slug}.json", f"{item.slug}.json{nvidia.SIDECAR}"), parts, strict=True):
                if part:
                    text = json.dumps(part, ensure_ascii=False, indent=1) + "\n"
                    (into / name).write_text(text, encoding="utf-8")

        return write
    return lambda item, row: None


def _summary_writer(out: IO[str]) -> Callable[[Row], None]:
    columns = (
        *("name", "state", "reason", "predicted", "measured", "output", "attempts", "seconds", "review"),
        *("video_path", "original_prompt", "upsampled_prompt"),
    )
    out.write("\ufeff")  # Excel takes a file without this mark for Windows-1252
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)

    def write(row: Row) -> None:
        review = row.get("review")
        line = {**row, **row["tokens"], "review": review["verdict"] if review else ""}
        writer.writerow([cell(line[column]) for column in columns])

    return write


def _batch_line(item: PlanItem, row: Row, settings: Settings, paths: RunPaths) -> dict[str, Any]:
    """A line of NVIDIA's batch format, for `--batch_input_path`: the upsampled prompt, or the original where it was kept.
    Raises Refused."""
    folder = paths.root if settings.paths == "relative" else None
    return nvidia.line_of(
        "transfer1", item, row["upsampled_prompt"] or item.prompt, row.get("negative_prompt") or "", folder
    )


def updated_spec(
    item: PlanItem, row: Row, settings: Settings, now: datetime, folder: Path | None = None
) -> dict[str, Any]:
    """The item as a PromptSpec with the additions of this run. Unknown fields stay as they are; paths are made absolute, or seen
    from this folder, since the file is somewhere else."""
    given = as_prompt(item, folder)
    return given | _additions(item, row, settings, now, given.get("metadata"))


def as_prompt(item: PlanItem, folder: Path | None = None) -> dict[str, Any]:
    """The item as its prompt file had it, with paths that are absolute, or seen from this folder, for a file somewhere else."""
    video = _absolute_video(item)
    video_path = os.path.relpath(video, folder) if video and folder else video
    extra = nvidia.moved(item, json.loads(item.extra), folder)
    clips = {field: video_path for field in VIDEO_FIELDS if field in extra and video}
    return {"name": item.name, "prompt": item.prompt, "video_path": video_path, **extra, **clips}


def _additions(item: PlanItem, row: Row, settings: Settings, now: datetime, metadata: Any) -> dict[str, Any]:
    """The fields of a PromptSpec that a run sets."""
    return {
        "metadata": {
            **(metadata if isinstance(metadata, dict) else {}),
            "upsampling": {"state": row["state"], "reason": row["reason"], "note": row["note"]}
            | ({"review": review["verdict"]} if (review := row.get("review")) else {}),
        },
        "is_upsampled": row["upsampled_prompt"] is not None,
        "upsampled_prompt": row["upsampled_prompt"],
        "upsampled_at": now.isoformat(timespec="seconds") if row["upsampled_prompt"] else None,
        "upsampling_params": {
            "recipe": settings.recipe,
            "engine": row["engine"],
            "model": settings.model.name if row["engine"] != "offline" else None,
            "template": settings.template,
            "max_model_len": settings.max_model_len,
            "max_output_tokens": settings.max_output_tokens,
            "temperature": settings.temperature if row["engine"] != "offline" else None,
            "hint": fields_of(item.hint) if item.hint else None,
            "item": item.id,
        }
        | ({"target": settings.target.name} if settings.target.hash else {}),
    }


def _absolute_video(item: PlanItem) -> str | None:
    if item.video:
        return item.video.path
    return str(find_file(Path(item.source).parent, item.video_path)[0]) if item.video_path else None
