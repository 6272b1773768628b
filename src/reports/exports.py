"""Files for other tools, on request (output.exports=[parquet,dataset,openai,txt,target,…]), written one line or row at a
time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from .. import log
from ..errors import HintError, VideoError
from ..files import folder_atomic, link_atomic, open_atomic
from ..inference.engines.engine import Refused
from ..media import geometry
from ..media.hint import Hint, hint_name
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.recipe import clip_facts
from ..planning.settings import Settings
from ..prompts.specs import UniqueNames
from ..run_folder import RunPaths
from ..runs.staging import rendered, seed_of
from ..targets.exports import EXPORTS, HEADS, Sample, call, line_of_cogvideox, sample_of_cosmos3
from ..worker.answer_form import AnswerForm
from ..worker.chat import chat_body
from ..worker.protocol import UPSAMPLED, Outcome
from . import nvidia, provenance
from .arrow import write_folder, write_parquet
from .rows import Row, hint_sent

Line = dict[str, Any]
FIRST_FPS = 1000.0  # slots a second of which the first has the first frame alone
SLOW = (*HEADS, "cogvideox", "cosmos3", "target", "openai")  # exports for which frames are read or rendered
_OF_EVERY_TARGET, _OF_ARROW = ("openai", "txt", "provenance"), ("dataset", "parquet")  # beside those of one target


def writable(plan: Plan, paths: RunPaths) -> dict[Path, str]:
    """Every export that this Python can write, by its place in the run folder."""
    names = (*EXPORTS, *_OF_EVERY_TARGET, *(_OF_ARROW if find_spec("pyarrow") else ()))
    return {path_of(name, plan, paths): name for name in names}


def path_of(name: str, plan: Plan, paths: RunPaths) -> Path:
    """Where an export is in the run folder. The default target's is batch.jsonl, which every run writes."""
    own = plan.settings.target.export if name == "target" else name
    if own in EXPORTS:
        return paths.root / EXPORTS[own]
    return {
        "": paths.batch,
        "dataset": paths.dataset,
        "parquet": paths.parquet,
        "openai": paths.openai_batch,
        "txt": paths.texts,
        "provenance": paths.provenance,
    }[own]


def write(
    name: str, plan: Plan, table: Sequence[Row], paths: RunPaths, outcomes: Mapping[str, Outcome] | None = None
) -> Path:
    """Write one export into the run folder; items that cannot be in it are logged, with the first reason."""
    path = path_of(name, plan, paths)
    name = plan.settings.target.export if name == "target" else name
    if not name:
        return path
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
    left_out: list[str] = []
    with open_atomic(path) as f:
        for line in _lines(name, plan, table, Path(os.path.abspath(paths.root)), outcomes or {}, left_out):
            f.write((line if isinstance(line, str) else json.dumps(line, ensure_ascii=True, allow_nan=False)) + "\n")
    if left_out:
        log.get().warning("left_out_of_export", file=path.name, items=len(left_out), first=left_out[0])
    return path


def _lines(
    name: str, plan: Plan, table: Sequence[Row], root: Path, outcomes: Mapping[str, Outcome], left_out: list[str]
) -> Iterator[Line | str]:
    """The lines of an export. left_out: gets the items that have none, with the reason."""
    if name == "provenance":
        yield from provenance.lines_of(plan, table, outcomes)
        return
    if name in HEADS:
        yield f"#!/bin/sh\n{HEADS[name]}\nset -e"
    line_of = _LINES.get(name, partial(_script_line, name))
    asked: set[str] = set()
    for item, row in zip(plan.items, table, strict=True):
        if name == "openai":  # each request once
            if item.id in asked:
                continue
            asked.add(item.id)
        try:
            yield line_of(item, row, plan.settings, root)
        except (Refused, ValueError) as e:
            left_out.append(f"{item.name}: {e}")


def _write_texts(plan: Plan, table: Sequence[Row], folder: Path) -> None:
    """One text per item, NAME.txt, as trainers read it next to a clip NAME.mp4; the original prompt where it was kept."""
    names, stems = UniqueNames(), dict.fromkeys(Path(item.video.path).stem for item in plan.items if item.video)
    own = {stem: names.free(stem) for stem in stems}  # before any that gets a number, which may make it another clip's
    for item, row in zip(plan.items, table, strict=True):
        stem = Path(item.video.path).stem if item.video else item.slug
        name = own.pop(stem, "") or names.free(stem)
        text = (row["upsampled_prompt"] or item.prompt).strip()
        (folder / f"{name}.txt").write_text(f"{text}\n", encoding="utf-8")


def _request(item: PlanItem, row: Row, s: Settings, root: Path) -> Line:
    """The request of an item as OpenAI's batch API and vLLM's `run_batch` take it, as the worker sent it."""
    body = (
        chat_body(item.system, item.text, _pictures(item, row, s), s.model.examples)
        | dict(s.model.request_fields)
        | json.loads(s.target.answer.fields or "{}")
        | _response_format(s.target.answer, s.max_output_tokens)
    )
    body |= {
        "model": s.model.name, "temperature": s.temperature, "max_tokens": s.max_output_tokens, "seed": seed_of(item, s),
    }  # fmt: skip
    return {"custom_id": item.id, "method": "POST", "url": "/v1/chat/completions", "body": body}


@lru_cache(maxsize=8)  # the same in all requests of a run
def _response_format(answer: AnswerForm, most: int) -> dict[str, Any]:
    return dict(answer.response_format(most))


def _pictures(item: PlanItem, row: Row, settings: Settings) -> list[bytes]:
    """The frames, or the clip, that the engine was sent, or would be: from the cache, or rendered again."""
    if not item.runs:
        raise Refused(item.problem)
    if settings.model.text_only or not (item.video and item.hint) or (row["state"] == UPSAMPLED and not row["frames"]):
        return []
    hint = item.hint
    if row["frames"]:
        hint = hint_sent(item.video, hint, len(row["frames"]), row["frames"][0]["size"])
    try:
        entry = rendered(item.video, hint, settings)
        paths = (entry.video_path,) if hint.clip_fps and entry.video_path else entry.frame_paths
        return [path.read_bytes() for path in paths]
    except (VideoError, HintError, OSError) as e:
        raise Refused(str(e)) from e


def sample_of(item: PlanItem, row: Row, settings: Settings, root: Path) -> Sample:
    """An item as the tool of its video model takes it. Raises Refused for one without a prompt, or whose clip cannot be used."""
    prompt, target = row["upsampled_prompt"] or item.prompt, settings.target
    if not prompt.strip():
        raise Refused("has no prompt")
    if item.video_path and not item.video:
        raise Refused(item.problem)
    negative = row.get("negative_prompt") or target.negative_prompt
    facts: dict[str, Any] = {}
    if item.video:
        facts["aspect_ratio"] = geometry.detect_aspect_ratio(item.video.size).replace(":", ",")
    if target.pins:
        known = clip_facts(target, item.video)
        frames_in_all = known["fps"] * int(known["duration"][:-1])
        facts = {**known, "resolution": target.resolution, "num_frames": 4 * round(frames_in_all / 4) + 1}
    return Sample(item.slug, prompt, negative, clip=item.video.path if item.video else "", facts=facts)


def _with_first_frame(sample: Sample, item: PlanItem, row: Row, settings: Settings, root: Path) -> Sample:
    """The same with the very first frame of the clip as a file, as large as it is, where the prompt was made from frames. Raises
    Refused where it cannot be read."""
    if not (item.video and row["frames"]):
        return sample
    try:
        return replace(sample, image=_first_frame(item.video, replace(settings, hint_video=False), root))
    except (VideoError, HintError, OSError) as e:
        raise Refused(str(e)) from e


@lru_cache(maxsize=4096)
def _first_frame(video: Video, settings: Settings, root: Path) -> str:
    hint = Hint(video.size.width_px, video.size.height_px, 1, (0.0,), "head", FIRST_FPS)
    file = root / "first_frames" / f"{hint_name(video, hint)}.png"
    if not file.exists():  # else the clip need not be there any more
        link_atomic(rendered(video, hint, settings).frame_paths[0], file)
    return str(file)


def _cosmos3_line(item: PlanItem, row: Row, settings: Settings, root: Path) -> Line:
    """A sample for `python -m cosmos_framework.scripts.inference -i cosmos3.jsonl`. ValueError for a clip that it does not take.

    Source: github.com/NVIDIA/cosmos-framework, docs/inference.md (modes and sample fields), inputs/omni/a2v.json (the
    prompt: a caption as JSON text), cosmos_framework/inference/common/args.py (JSON lines split at every line break
    of Unicode, hence ASCII here; names are folders; clips end in .mp4; unknown fields are refused).
    """
    sample = sample_of(item, row, settings, root)
    request = nvidia.request_for("cosmos3", item, sample.prompt, sample.negative, _seen_from(settings, root))
    sample = replace(sample, clip=request.clip)
    if settings.target.name in ("cosmos3", "cosmos3_i2v") and not request.controls:  # these animate the first frame
        sample = _with_first_frame(sample, item, row, settings, root)
        sample = replace(sample, clip="" if sample.image else sample.clip)
    line = sample_of_cosmos3(sample, ascii_only=bool(settings.target.hash))
    return {**line, **request.arguments, **request.whole}


def _transfer2_5_line(item: PlanItem, row: Row, settings: Settings, root: Path) -> Line:
    """A sample for `examples/inference.py -i transfer2_5.jsonl` of Cosmos-Transfer2.5."""
    sample = sample_of(item, row, settings, root)
    return nvidia.line_of("transfer2_5", item, sample.prompt, sample.negative, _seen_from(settings, root))


def _seen_from(settings: Settings, root: Path) -> Path | None:
    return root if settings.paths == "relative" else None


def _script_line(name: str, item: PlanItem, row: Row, settings: Settings, root: Path) -> str:
    """A line of a shell script, or of a file of prompts."""
    sample = _with_first_frame(sample_of(item, row, settings, root), item, row, settings, root)
    return call(name, sample) if name in HEADS else line_of_cogvideox(sample)


_LINES: dict[str, Callable[[PlanItem, Row, Settings, Path], Line | str]] = {
    "openai": _request, "cosmos3": _cosmos3_line, "transfer2_5": _transfer2_5_line,
}  # fmt: skip
