"""The files of every finished run: results.json, summary.csv, NVIDIA's batch.jsonl, updated specs."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from ..files import folder_atomic, open_atomic, write_atomic
from ..media.hint import Hint, hint_key
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings, dumps, fields_of
from ..prompts.formats import VIDEO_FIELDS
from ..prompts.specs import absolute_video, prompt_files, read_specs
from ..run_folder import RunPaths
from ..text import cell
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
    were written."""
    with ExitStack() as files:
        results, summary, batch = (
            files.enter_context(open_atomic(path)) for path in (paths.results, paths.summary, paths.batch)
        )
        summary_row, spec = _summary_writer(summary), _spec_writer(plan.settings, paths, now, files)
        results.write("[\n")
        for n, (item, row) in enumerate(rows):
            results.write((",\n" if n else "") + dumps(row))
            summary_row(row)
            batch.write(dumps(_batch_line(item, row)) + "\n")
            spec(item, row)
        results.write("\n]\n")
    table = read_rows(paths.results)
    if plan.settings.spec_output == "in_place":
        _update_in_place(plan, table, now)
    return table


def _spec_writer(
    settings: Settings, paths: RunPaths, now: datetime, files: ExitStack
) -> Callable[[PlanItem, Row], object]:
    """The function that writes the updated spec of an item: into specs.jsonl, or a file of its own."""
    if settings.spec_output == "beside":
        out = files.enter_context(open_atomic(paths.specs_list))
        return lambda item, row: out.write(dumps(updated_spec(item, row, settings, now)) + "\n")
    if settings.spec_output == "files":
        folder = files.enter_context(folder_atomic(paths.specs))
        files.callback(os.sync)  # one for all files
        return lambda item, row: (folder / f"{item.slug}.json").write_text(
            json.dumps(updated_spec(item, row, settings, now), ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
        )
    return lambda item, row: None


def _summary_writer(out: IO[str]) -> Callable[[Row], None]:
    columns = [
        "name",
        "state",
        "reason",
        "predicted",
        "measured",
        "output",
        "attempts",
        "seconds",
        "review",
        "video_path",
        "original_prompt",
        "upsampled_prompt",
    ]
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()

    def write(row: Row) -> None:
        review = row.get("review")
        line = {**row, **row["tokens"], "review": review["verdict"] if review else ""}
        writer.writerow({column: cell(line[column]) for column in columns})

    return write


def _batch_line(item: PlanItem, row: Row) -> dict[str, Any]:
    """A line of NVIDIA's batch format, for `--batch_input_path`: the upsampled prompt, or the original where it was kept."""
    line: dict[str, Any] = {
        "visual_input": str(_absolute_video(item) or ""),
        "prompt": row["upsampled_prompt"] or item.prompt,
    }
    control = json.loads(item.extra).get("control_overrides")
    return {**line, "control_overrides": control} if control is not None else line


def updated_spec(item: PlanItem, row: Row, settings: Settings, now: datetime) -> dict[str, Any]:
    """The item as a PromptSpec with the additions of this run. Unknown fields stay as they are; video paths are made absolute,
    since the file is somewhere else."""
    given = as_prompt(item)
    return given | _additions(item, row, settings, now, given.get("metadata"))


def as_prompt(item: PlanItem) -> dict[str, Any]:
    """The item as its prompt file had it, with absolute video paths, for a file somewhere else."""
    video = _absolute_video(item)
    extra = json.loads(item.extra)
    moved = {field: str(video) for field in VIDEO_FIELDS if field in extra and video}
    return {"name": item.name, "prompt": item.prompt, "video_path": str(video) if video else None, **extra, **moved}


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
        },
    }


def _absolute_video(item: PlanItem) -> Path | None:
    return absolute_video(Path(item.source), item.video_path) if item.video_path else None


def _update_in_place(plan: Plan, table: Sequence[Row], now: datetime) -> None:
    """Write the additions into the files that the prompts came from; the file before is kept as NAME.bak."""
    by_source: dict[str, dict[str, tuple[PlanItem, Row]]] = {}
    for item, row in zip(plan.items, table, strict=True):
        by_source.setdefault(item.source, {})[item.name] = (item, row)
    for source, found in by_source.items():
        file = Path(source)
        updated, shape = [], "list"
        for spec in read_specs(prompt_files(source)):
            shape = spec.shape
            raw = dict(spec.raw)
            if spec.name in found:
                item, row = found[spec.name]
                raw |= _additions(item, row, plan.settings, now, raw.get("metadata"))
            updated.append(raw)
        text = _as_file(updated, shape, _header(file) if shape == "csv" else ())
        shutil.copy2(file, _free_backup(file))
        write_atomic(Path(os.path.realpath(file)), text)  # a link stays one


def _free_backup(file: Path) -> Path:
    """NAME.bak, or NAME.bak2 and so on: an older backup is never overwritten."""
    names = (file.with_name(f"{file.name}.bak{n if n > 1 else ''}") for n in range(1, 10_000))
    return next(path for path in names if not path.exists())


def _header(file: Path) -> list[str]:
    with open(file, encoding="utf-8-sig", newline="") as f:
        return [column.strip() for column in next(csv.reader(f))]


def _as_file(items: list[dict[str, Any]], shape: str, header: Sequence[str]) -> str:
    if shape == "object":
        return json.dumps(items[0], ensure_ascii=False, indent=1) + "\n"
    if shape == "lines":
        return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    if shape == "list":
        return json.dumps(items, ensure_ascii=False, indent=1) + "\n"
    out = io.StringIO()
    columns = list(dict.fromkeys((*header, *(column for item in items for column in item))))
    # A bare carriage return ends a row for some readers: what holds one stands in quotes.
    has_return = any("\r" in str(value) for item in items for value in item.values())
    writer = csv.DictWriter(
        out, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    )
    writer.writeheader()
    for item in items:
        writer.writerow({k: json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v for k, v in item.items()})
    return out.getvalue()
