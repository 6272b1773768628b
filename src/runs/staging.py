"""Job folders: what a worker is given, staged batch by batch while hints are still being rendered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from launchers import worker

from ..errors import HintError, VideoError
from ..files import link_whole, write_atomic
from ..hosts.job_folder import JobPaths
from ..media import geometry
from ..media.hint import Hint, RenderedHint, hint_key
from ..media.render import render
from ..media.video import Video
from ..models import pixtral
from ..planning.plan import Plan, PlanItem
from ..planning.settings import Settings, digest, fields_of
from .outcomes import FAILED, KEPT, Outcome

LINGER_S = 60.0


def job_id(items: Iterable[PlanItem], settings: Settings) -> str:
    """Name of a job: a hash of what it asks and of the worker that answers."""
    code = Path(worker.__file__).read_bytes().hex()
    asked = list(items)
    return digest(sorted(item.id for item in asked), job_record(asked, settings), code)


def job_record(items: Iterable[PlanItem], settings: Settings) -> dict[str, Any]:
    """What job.json says.

    needed_len: the shortest context that serves all items, for an engine short of memory. images: the most that one
    prompt has; an engine told to expect more reserves memory and takes longer to start.
    """
    asked = [item for item in items if item.runs]
    prompts = [item.tokens.prompt for item in asked]
    return {
        "protocol": worker.PROTOCOL,
        "engine": fields_of(settings.engine),
        "model": fields_of(settings.model),
        "max_model_len": settings.max_model_len,
        "max_output_tokens": settings.max_output_tokens,
        "needed_len": pixtral.smallest_max_model_len(prompts, settings.max_output_tokens),
        "images": max((item.hint.frames for item in asked if item.hint), default=1),
        "temperature": settings.temperature,
        "checks": {"cut_off": settings.check_cut_off, "script": settings.check_script},
        "linger_s": LINGER_S,
    }


def seed_of(item: PlanItem, settings: Settings) -> int:
    """A 31-bit seed from the item's identity, so that the same item asks the same question in every run."""
    return (int(item.id[:8], 16) ^ settings.seed) & 0x7FFF_FFFF


def stage(
    plan: Plan, missing: set[str], paths: JobPaths, cache: Path, stop: Stop
) -> Iterator[tuple[int, list[Outcome]]]:
    """Render the hints of the missing items and stage them, a batch at a time.

    Yields, a batch at a time, how many items are ready and the outcomes of those that never reach the worker.
    Clips are rendered in parallel and each hint once, however many items share it.
    """
    settings, items = plan.settings, plan.by_id
    workers = settings.render_workers or os.cpu_count() or 1
    hints: dict[str, Future[RenderedHint]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="render") as pool:

        def start(item: PlanItem) -> None:
            if item.video and item.hint:
                key = hint_key(item.video, item.hint)
                if key not in hints:
                    hints[key] = pool.submit(_render, item.video, item.hint, cache, settings, stop)

        staged = paths.staged()  # by an earlier start; their frames are in the job folder
        todo = [[items[i] for i in batch if i in missing - staged] for batch in plan.batches]
        yield len(missing & staged), []
        for item in todo[0] if todo else ():
            start(item)
        for number, batch in enumerate(todo):
            for item in todo[number + 1] if number + 1 < len(todo) else ():  # one batch ahead
                start(item)
            records, lost = [], []
            for item in batch:
                record, outcome = _record(item, hints, paths, settings)
                records += [record] if record else []
                lost += [outcome] if outcome else []
            if stop.asked:
                return
            if records:
                text = "".join(json.dumps(r, ensure_ascii=True) + "\n" for r in records)
                name = f"{number:05d}-{digest(text)[:8]}.jsonl"  # a resumed run may add to a batch
                write_atomic(paths.batches / name, text)
            if batch:
                yield len(batch), lost


class Stop:
    """A flag that one thread raises and others look at."""

    asked = False


def _render(video: Video, hint: Hint, cache: Path, settings: Settings, stop: Stop) -> RenderedHint:
    if stop.asked:
        raise HintError("stopped before it was rendered")
    return render(video, hint, cache, with_video=settings.hint_video)


def _record(
    item: PlanItem, hints: dict[str, Future[RenderedHint]], paths: JobPaths, settings: Settings
) -> tuple[dict[str, Any] | None, Outcome | None]:
    """The batch line of an item, or the outcome of one that cannot be sent."""
    note = f"from the text only: {item.problem}" if item.problem else ""
    if not (item.video and item.hint):
        return _line(item, item.tokens.prompt, [], settings, note=note), None
    try:
        frames = _link_frames(hints[hint_key(item.video, item.hint)].result(), paths)
    except (VideoError, HintError) as e:
        if settings.on_bad_video != "text_only" or not item.prompt.strip():
            return None, Outcome(item.id, KEPT if item.prompt.strip() else FAILED, e.message)
        predicted = pixtral.WRAPPER_TOKENS + item.tokens.text
        return _line(item, predicted, [], settings, note=f"from the text only: {e.message}"), None
    return _line(item, item.tokens.prompt, frames, settings), None


def _line(
    item: PlanItem, predicted: int, frames: list[str], settings: Settings, step: int = 0, note: str = ""
) -> dict[str, Any]:
    return {
        "id": item.id,
        "step": step,
        "prompt": item.prompt,
        "text": item.text,
        "system": item.system,
        "frames": frames,
        "predicted": predicted,
        "max_tokens": settings.max_output_tokens,
        "seed": seed_of(item, settings),
        "note": note,
    }


def stage_smaller(item: PlanItem, refused: dict[str, Any], paths: JobPaths, settings: Settings) -> str | None:
    """Stage an item that the engine refused again, one size smaller; None when that was done, else why it was not.

    refused: its result line. An engine that refuses more than the plan expects is believed.
    """
    if not (item.video and item.hint and refused["frames"]):
        return f"the engine refused the prompt, and there is no frame to make smaller: {refused['reason']}"
    width, height = map(int, refused["frames"][0]["size"].split("x"))
    now = pixtral.image_tokens(width, height)
    refused_size = geometry.Size(width, height)
    cheaper = geometry.step_down(
        refused_size, refused_size, lambda s: pixtral.image_tokens(s.width_px, s.height_px) < now
    )
    if cheaper is None:
        return f"the engine refused even {width}x{height}: {refused['reason']}"
    hint = replace(item.hint, width_px=cheaper.width_px, height_px=cheaper.height_px)
    try:
        rendered = render(item.video, hint, Path(settings.cache_dir) / "hints", with_video=settings.hint_video)
    except (VideoError, HintError) as e:
        return e.message
    image = pixtral.image_tokens(cheaper.width_px, cheaper.height_px) * hint.frames
    predicted = item.tokens.prompt - item.tokens.image + image
    note = "; ".join(n for n in (refused["note"], f"{width}x{height} was refused by the engine") if n)
    line = _line(item, predicted, _link_frames(rendered, paths), settings, refused["step"] + 1, note)
    # Named to sort after the numbered batches, and apart from every other refusal.
    write_atomic(paths.batches / f"smaller-{item.id}-{line['step']}.jsonl", json.dumps(line) + "\n")
    return None


def _link_frames(rendered: RenderedHint, paths: JobPaths) -> list[str]:
    """Put the frames of a hint into the job folder, named by their content; their names there."""
    names = [f"frames/{frame.sha256}.png" for frame in rendered.frames]
    for source, name in zip(rendered.frame_paths, names, strict=True):
        link_whole(source, paths.root / name)
    return names
