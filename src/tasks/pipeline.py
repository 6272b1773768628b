"""`task=pipeline`: upsample the prompts, then let a program of NVIDIA's make the videos, on the same host.

Each stage can be left out, and each resumes where it stopped: resume=FOLDER does only what is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import log
from ..choices import Retry, TaskName
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..hosts.job_folder import open_jobs
from ..inference.configure import inference_settings, refuse_what_is_missing, upscaling
from ..inference.generate import ended_before, failed_in, generate
from ..inference.items import InferenceItem, inference_items
from ..inference.pipeline_file import read_pipeline, save_pipeline
from ..inference.preview import lines_of
from ..inference.settings import InferenceSettings
from ..media.video import content_hash
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.reviews import read_marks, rejected_names
from ..reports.rows import HintFolders, Row, read_rows, result_rows
from ..reports.videos import write_videos
from ..run_folder import RunPaths, locked
from ..runs.outcomes import Outcomes
from ..runs.saved_run import save_plan
from ..text import counted, duration, printable
from ..timing import estimates
from ..timing.phases import LOADING, Measured, Stopwatch
from ..worker.protocol import DONE, VideoOutcome
from . import Invocation, run_task
from .resolving import resolve_with_progress, saved_plan, warn_ignored_overrides

SKIPPED = "skipped"


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when every item has its video (and was upsampled, where that was asked), 3 when some have not."""
    config, paths = invocation.config, invocation.paths
    stages, resumes = config.pipeline, bool(config.run or config.resume)
    if not (stages.upsample or stages.inference):
        raise InputError("pipeline.upsample=false pipeline.inference=false: there is nothing to do")
    upsampling, inference = stages.upsample, None
    if stages.inference:
        upsampling, inference = _inference(invocation, resumes)
        if config.inference.dry_run:
            return _preview(upsampling, inference, invocation, resumes)
    with locked(paths, invocation.config.output.lock_timeout_s):
        if inference is not None:  # before anything happens, so that it can be resumed
            save_pipeline(upsampling, inference, paths)
        if not upsampling and not resumes:
            saved_plan(invocation)
    code = _upsample(invocation, resumes) if upsampling else ExitCode.OK
    if inference is None:
        return code
    with locked(paths, invocation.config.output.lock_timeout_s):
        code = max(code, _make_videos(read_plan(paths.plan), inference, invocation))
    return max(code, _upscale(inference, invocation)) if inference.upscale else code


def _inference(invocation: Invocation, resumes: bool) -> tuple[bool, InferenceSettings]:
    """Whether to upsample, and how inference runs: as the run was started, or else by this command."""
    config, paths = invocation.config, invocation.paths
    if resumes and paths.pipeline.exists() and not config.pipeline.again:
        warn_ignored_overrides(invocation, "pipeline.json, unless pipeline.again=true is given,")
        log.get().info("run_resumed", run=str(paths.root), note="by its pipeline.json")
        upsamples, settings = read_pipeline(paths)
        return upsamples and config.pipeline.upsample, settings
    settings = inference_settings(config, read_plan(paths.plan).settings if resumes else None)
    if not config.inference.dry_run:
        refuse_what_is_missing(settings)
    return config.pipeline.upsample, settings


def _preview(upsampling: bool, inference: InferenceSettings, invocation: Invocation, resumes: bool) -> ExitCode:
    """Print what would be done; exit code 3 when something is left out or missing."""
    plan = read_plan(invocation.paths.plan) if resumes else resolve_with_progress(invocation)
    rows = _rows(plan, invocation.paths) if resumes else None
    wanted = inference_items(plan.items, rows, inference)
    known = ended_before(wanted, invocation.paths).keys() | _staged(invocation.paths) if resumes else set[str]()
    wanted = _with_their_clips(wanted, known)
    if upsampling and rows is None:
        prompts = counted(len(plan.items), "prompt")
        invocation.print(f"{prompts} to upsample first; below they stand as they are now")
    for line in lines_of(wanted, inference):
        invocation.print(printable(line))
    expected = estimates.estimate_videos(*_work(wanted), estimates.earlier_videos(plan, inference.how))
    unknown = "not known before the first run of this kind"
    where = f"{inference.how} on {inference.host.name}"
    invocation.print(f"estimate     {estimates.estimate_text(expected, where) if expected else unknown}")
    try:
        refuse_what_is_missing(inference)
    except InputError as e:
        invocation.print(printable(str(e)))
        return ExitCode.INCOMPLETE
    return ExitCode.OK if all(item.id for item in wanted) else ExitCode.INCOMPLETE


def _upsample(invocation: Invocation, resumes: bool) -> ExitCode:
    """The ordinary task; nothing, where a run has all its results."""
    config, paths = invocation.config, invocation.paths
    if resumes:
        plan, known = read_plan(paths.plan), Outcomes(paths.journal)
        is_whole = paths.results.exists() and all(item_id in known for item_id in plan.ids)
        if is_whole and config.retry is not Retry.failed:
            log.get().info("prompts_taken_over", run=str(paths.root), items=len(plan.items))
            ended = {known.state_of(item_id) for item_id in plan.ids}
            return ExitCode.OK if ended == {"upsampled"} else ExitCode.INCOMPLETE
        invocation = replace(invocation, config=replace(config, resume=str(paths.root)))
    return run_task(invocation, TaskName.upsample)


def _make_videos(plan: Plan, inference: InferenceSettings, invocation: Invocation) -> ExitCode:
    paths = invocation.paths
    wanted = inference_items(plan.items, _rows(plan, paths), inference)
    ended = ended_before(wanted, paths)
    wanted = _with_their_clips(wanted, ended.keys() | _staged(paths))
    is_typical = not ended and not open_jobs(paths.inference)  # one that is resumed would look faster than it is
    pieces, loads = _work(wanted)
    expected = (
        estimates.estimate_videos(pieces, loads, estimates.earlier_videos(plan, inference.how)) if is_typical else None
    )
    if text := estimates.estimate_text(expected, f"{inference.how} on {plan.settings.host.name}"):
        log.get().info("estimate", text=text)
    with invocation.progress(expected.total_s if expected else None) as display:
        watch = Stopwatch(display)
        try:
            generate(wanted, plan, inference, paths, watch, ended)
        finally:
            table = [_row(item, ended.get(item.id), paths) for item in wanted]
            _write(table, paths)
    measured = watch.measured(expected.as_seconds() if expected else {}, {})
    loading = measured.phases.get(LOADING)
    if (
        is_typical
        and loading
        and loading.amount
        and pieces
        and all(outcome.state == DONE for outcome in ended.values())
    ):
        past = estimates.VideoTiming(pieces, loading.amount, loading.busy_s, measured.seconds)
        estimates.remember_videos(plan, inference.how, past)
    _show_end(table, paths, measured, invocation)
    rejected = rejected_names(read_marks(paths.review))  # by a reviewer, who meant it
    whole = all(row["state"] == DONE or (row["state"] == SKIPPED and row["name"] in rejected) for row in table)
    return ExitCode.OK if whole else ExitCode.INCOMPLETE


def _staged(paths: RunPaths) -> Set[str]:
    """The items of jobs that were not brought to their end, which have their clips; what failed there is staged again."""
    return {item_id for job in open_jobs(paths.inference) for item_id in job.staged() - failed_in(job)}


def _with_their_clips(wanted: Sequence[InferenceItem], known: Set[str]) -> tuple[InferenceItem, ...]:
    """The items, of which those are left out whose clip is gone, or another one than was planned. known: that need none, for their
    videos are there, or are being made."""
    return tuple(
        replace(item, id="", left_out=wrong)
        if item.video and item.id and item.id not in known and (wrong := _wrong_with_clip(item))
        else item
        for item in wanted
    )


def _wrong_with_clip(item: InferenceItem) -> str:
    path, planned = Path(dict(item.files)[item.video]), Path(item.video).stem
    try:
        return "" if content_hash(path) == planned else f"its video {path} has changed since it was planned"
    except OSError as e:
        return f"its video {path}: {e.strerror}"


def _upscale(inference: InferenceSettings, invocation: Invocation) -> ExitCode:
    """The videos of this run in 4K, as a run of its own below it; those that are there already are not made again."""
    paths, prompts = RunPaths(invocation.paths.root / "upscaled"), str(invocation.paths.video_prompts)
    config = replace(
        invocation.config,
        prompts=prompts,
        run="",
        resume="",
        name="",
        columns=replace(invocation.config.columns, prompt="", video=""),
    )
    below = replace(invocation, config=config, paths=paths)
    if not invocation.paths.video_prompts.read_text(encoding="utf-8"):
        return ExitCode.INCOMPLETE  # no video was made
    settings = upscaling(inference)
    with locked(paths, invocation.config.output.lock_timeout_s):
        plan = resolve_with_progress(below)
        save_plan(plan, paths)
        save_pipeline(False, settings, paths)
        return _make_videos(plan, settings, below)


def _work(wanted: Sequence[InferenceItem]) -> tuple[int, int]:
    """The pieces that all videos are made in, and how often the model is loaded for them."""
    made = {item.id: item for item in wanted if item.id}.values()
    return sum(item.pieces for item in made), len({item.group for item in made})


def _rows(plan: Plan, paths: RunPaths) -> Sequence[Row] | None:
    """The rows of results.json, in the order of the plan; None for a run that upsampled nothing."""
    with suppress(FileNotFoundError, InputError):  # made again from the journal
        table = read_rows(paths.results)
        if [row["id"] for row in table] == plan.ids:
            return table
    if not paths.journal.exists():
        return None
    return list(result_rows(plan, Outcomes(paths.journal), HintFolders(paths), "did not end"))


def _write(table: Sequence[Mapping[str, Any]], paths: RunPaths) -> None:
    """inference.json, and the videos as prompts."""
    body = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table)
    write_atomic(paths.inference_results, f"[\n{body}\n]\n")
    made = [
        {"name": row["name"], "prompt": row["prompt"], "video_path": Path(row["video"]).name}
        for row in table
        if row["video"]
    ]
    paths.videos.mkdir(exist_ok=True)
    write_atomic(paths.video_prompts, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made))
    write_videos([paths.root], paths.videos_page)


def _row(item: InferenceItem, outcome: VideoOutcome | None, paths: RunPaths) -> dict[str, Any]:
    """A row of inference.json."""
    state = outcome.state if outcome else (SKIPPED if item.left_out else "unfinished")
    video = paths.videos / f"{item.slug}.mp4"
    return {
        "id": item.id,
        "name": item.name,
        "state": state,
        "reason": outcome.reason if outcome else item.left_out or "did not end",
        "note": "",
        "prompt": item.prompt,
        "prompt_from": item.source,
        "input_video": item.video_path,
        "clip": dict(item.files).get(item.video),
        "video": str(video.relative_to(paths.root)) if state == DONE else None,
        "sha256": (outcome.sha256 or None) if outcome else None,
        "seconds": outcome.seconds if outcome else None,
        "attempts": outcome.attempts if outcome else 0,
        "asked": json.loads(item.asked),
        "controls": {
            name: str(paths.controls_of(item.slug, name).relative_to(paths.root))
            for name in (outcome.controls if outcome else {})
        },
    }


def _show_end(table: list[dict[str, Any]], paths: RunPaths, measured: Measured, invocation: Invocation) -> None:
    out, states = invocation.out, Counter(row["state"] for row in table)
    out.print(
        f"{states['done']} videos, {states['failed']} failed, {states[SKIPPED]} skipped  ·  {duration(measured.seconds)}",
        style="bold",
        highlight=False,
    )
    for (state, reason), count in Counter((r["state"], r["reason"]) for r in table if r["state"] != "done").most_common(
        10
    ):
        invocation.print(f"  {count} {state}: {printable(reason)}")
    if off := estimates.error_text(measured.estimated_s, measured.seconds):
        out.print(off, markup=False, highlight=False)
    for path in (paths.videos, paths.inference_results, paths.videos_page):
        invocation.print(f"{path.name:<13} {path}")
