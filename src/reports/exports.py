"""Files for other tools, on request (output.exports=[parquet,dataset,openai,cosmos3,txt]), written one line or row at a
time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .. import log
from ..errors import HintError, VideoError
from ..files import folder_atomic, open_atomic
from ..media import geometry
from ..media.render import render
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings
from ..prompts.specs import UniqueNames
from ..run_folder import RunPaths
from ..runs.staging import guard_of, seed_of
from ..worker.chat import chat_body
from ..worker.protocol import UPSAMPLED
from .arrow import write_folder, write_parquet
from .rows import Row, hint_sent

Line = dict[str, Any]


class _LeftOut(Exception):
    """Why an item cannot be in an export."""


def path_of(name: str, paths: RunPaths) -> Path:
    """Where an export is in the run folder."""
    return {
        "dataset": paths.dataset,
        "parquet": paths.parquet,
        "openai": paths.openai_batch,
        "cosmos3": paths.cosmos3,
        "txt": paths.texts,
    }[name]


def write(name: str, plan: Plan, table: Sequence[Row], paths: RunPaths) -> Path:
    """Write one export into the run folder; items that cannot be in it are logged, with the first reason."""
    path = path_of(name, paths)
    if name == "dataset":
        with folder_atomic(path) as folder:
            write_folder(table, folder)
        return path
    if name == "txt":
        with folder_atomic(path) as folder:
            _write_texts(plan, table, folder)
        return path
    if name == "parquet":
        with open_atomic(path) as f:
            binary: IO[bytes] = f.buffer  # type: ignore[attr-defined]
            write_parquet(table, binary)
        return path
    lines = {"openai": _openai_lines, "cosmos3": _cosmos3_lines}[name]
    left_out = []
    with open_atomic(path) as f:
        for line in lines(plan, table):
            if isinstance(line, str):
                left_out.append(line)
            else:
                f.write(json.dumps(line, ensure_ascii=True, allow_nan=False) + "\n")
    if left_out:
        log.get().warning("left_out_of_export", file=path.name, items=len(left_out), first=left_out[0])
    return path


def _write_texts(plan: Plan, table: Sequence[Row], folder: Path) -> None:
    """One text per item, NAME.txt, as trainers read it next to a clip NAME.mp4; the original prompt where it was kept."""
    names = UniqueNames()
    for item, row in zip(plan.items, table, strict=True):
        name = names.free(Path(item.video.path).stem if item.video else item.slug)
        text = (row["upsampled_prompt"] or item.prompt).strip()
        (folder / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


def _openai_lines(plan: Plan, table: Sequence[Row]) -> Iterator[Line | str]:
    """The run's requests as OpenAI's batch API and vLLM's `run_batch` take them, each once, as the worker sent them;
    or why an item has none."""
    s = plan.settings
    written: set[str] = set()
    for item, row in zip(plan.items, table, strict=True):
        if item.id in written:
            continue
        written.add(item.id)
        try:
            pictures = _pictures(item, row, s)
        except _LeftOut as e:
            yield f"{item.name}: {e}"
            continue
        body = (
            chat_body(item.system, item.text, pictures)
            | dict(s.model.request_fields)
            | {
                "model": s.model.name,
                "temperature": s.temperature,
                "max_tokens": s.max_output_tokens,
                "seed": seed_of(item, s),
            }
        )
        yield {"custom_id": item.id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _pictures(item: PlanItem, row: Row, settings: Settings) -> list[bytes]:
    """The frames, or the clip, that the engine was sent, or would be: from the cache, or rendered again."""
    if not item.runs:
        raise _LeftOut(item.problem)
    if not (item.video and item.hint) or (row["state"] == UPSAMPLED and not row["frames"]):
        return []
    hint = item.hint
    if row["frames"]:
        hint = hint_sent(item.video, hint, len(row["frames"]), row["frames"][0]["size"])
    guard, cache = guard_of(item.video, settings), Path(settings.cache_dir) / "hints"
    try:
        rendered = render(item.video, hint, cache, with_video=hint.clip_fps is not None, guard=guard)
        paths = (rendered.video_path,) if hint.clip_fps and rendered.video_path else rendered.frame_paths
        return [path.read_bytes() for path in paths]
    except (VideoError, HintError, OSError) as e:
        raise _LeftOut(str(e)) from e


def _cosmos3_lines(plan: Plan, table: Sequence[Row]) -> Iterator[Line | str]:
    """Samples for `python -m cosmos_framework.scripts.inference -i cosmos3.jsonl`, or why an item is none.

    Source: github.com/NVIDIA/cosmos-framework, docs/inference.md (modes and sample fields), inputs/omni/a2v.json (the
    prompt: a caption as JSON text), cosmos_framework/inference/common/args.py (JSON lines split at every line break
    of Unicode, hence ASCII here; names are folders; clips end in .mp4; unknown fields are refused).
    """
    for item, row in zip(plan.items, table, strict=True):
        prompt = row["upsampled_prompt"] or item.prompt
        if not prompt.strip():
            yield f"{item.name}: has no prompt"
        elif not item.video_path:
            yield {"name": item.slug, "model_mode": "text2video", "prompt": _caption(prompt, {})}
        elif not item.video:
            yield f"{item.name}: {item.problem}"
        elif Path(item.video.path).suffix.lower() != ".mp4":
            yield f"{item.name}: {item.video.path}: Cosmos 3 takes clips that end in .mp4"
        else:
            shape = {"aspect_ratio": geometry.detect_aspect_ratio(item.video.size).replace(":", ",")}
            yield {
                "name": item.slug,
                "model_mode": "video2video",
                "prompt": _caption(prompt, shape),
                "vision_path": item.video.path,
                **shape,
            }


def _caption(prompt: str, shape: Mapping[str, str]) -> str:
    """A prompt as Cosmos 3's structured caption; one that is a JSON object already, with or without a code fence
    around it, as it stands. Size, length and frame rate of the generated video are left to the user."""
    bare = prompt.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        structured = json.loads(bare)
    except (ValueError, RecursionError):
        structured = None
    caption = structured if isinstance(structured, dict) else {"temporal_caption": prompt, **shape}
    return json.dumps(caption, ensure_ascii=False)
