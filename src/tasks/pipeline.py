"""`task=pipeline`: upsample the prompts, then let Cosmos-Transfer1 make the videos, on the same host.

Each stage can be left out, and each is taken up where it stopped: `task=pipeline run=FOLDER` does only what is missing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from launchers.infer import DONE

from .. import log, text
from ..errors import Detached, ExitCode, InputError
from ..files import write_atomic
from ..inference.configure import inference_settings, refuse_what_is_missing
from ..inference.generate import WORDS, generate, open_jobs, taken_over
from ..inference.items import Take, pieces_of, takes
from ..inference.pipeline_file import read_pipeline, save_pipeline
from ..inference.settings import InferenceSettings
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.rows import result_rows
from ..run_folder import RunPaths, locked
from ..runs.outcomes import read_outcomes
from ..runs.saved_run import refuse_another_run, save_plan
from ..runs.supervisor import Record, how_to_come_back
from ..text import words
from ..timing.estimates import (
    PastVideos,
    earlier_videos,
    error_words,
    estimate_words,
    estimated_videos,
    remember_videos,
)
from ..timing.phases import LOADING, Measured, Watch
from ..timing.progress import showing
from . import Invocation, upsample
from .resolving import resolve_shown, say_what_is_ignored

SKIPPED = "skipped"


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when every item has its video (and was upsampled, where that was asked), 3 when some have not."""
    config, paths = invocation.config, invocation.paths
    stages, coming_back = config.pipeline, bool(config.run or config.resume)
    if not (stages.upsample or stages.inference):
        raise InputError("pipeline.upsample=false pipeline.inference=false: there is nothing to do")
    upsampling, inference = stages.upsample, None
    if stages.inference:
        upsampling, inference = _inference(invocation, coming_back)
    with locked(paths):
        if inference is not None:  # before anything happens, so that whoever comes back finds it
            save_pipeline(upsampling, inference, paths)
        if not upsampling and not coming_back:
            plan = resolve_shown(invocation)
            refuse_another_run(plan, paths)
            save_plan(plan, paths)
            write_atomic(paths.command, invocation.command + "\n")
    code = _upsample(invocation, coming_back) if upsampling else ExitCode.OK
    if inference is None:
        return code
    with locked(paths):
        return max(code, _make_videos(read_plan(paths.plan), inference, invocation))


def _inference(invocation: Invocation, coming_back: bool) -> tuple[bool, InferenceSettings]:
    """Whether to upsample, and how inference runs: as the run was begun, if it was, else as this command says."""
    config, paths = invocation.config, invocation.paths
    if coming_back and paths.pipeline.exists() and not config.pipeline.again:
        say_what_is_ignored(invocation, "pipeline.json, unless pipeline.again=true is given,")
        log.get().info("run_resumed", run=str(paths.root), note="as its pipeline.json says")
        begun, settings = read_pipeline(paths)
        return begun and config.pipeline.upsample, settings
    settings = inference_settings(config, read_plan(paths.plan).settings if coming_back else None)
    refuse_what_is_missing(settings)
    return config.pipeline.upsample, settings


def _upsample(invocation: Invocation, coming_back: bool) -> ExitCode:
    """The ordinary task; nothing, where a run has all its results."""
    config, paths = invocation.config, invocation.paths
    if coming_back:
        plan, known = read_plan(paths.plan), read_outcomes(paths.journal)
        if paths.results.exists() and all(item.id in known for item in plan.items):
            log.get().info("prompts_taken_over", run=str(paths.root), items=len(plan.items))
            ended = {known[item.id].state for item in plan.items}
            return ExitCode.OK if ended == {"upsampled"} else ExitCode.INCOMPLETE
        invocation = replace(invocation, config=replace(config, resume=str(paths.root)))
    try:
        return upsample.run(invocation)
    except Detached as e:
        raise Detached(e.message, hint=how_to_come_back(paths.root, WORDS.again)) from None


def _make_videos(plan: Plan, inference: InferenceSettings, invocation: Invocation) -> ExitCode:
    config, paths = invocation.config, invocation.paths
    wanted = takes(plan.items, _rows(plan, paths), inference)
    for take in wanted:
        if take.note:
            log.get().warning("control_ignored", item=take.name, reason=take.note)
    ended = taken_over(wanted, paths)
    is_typical = not ended and not open_jobs(paths)  # one that is taken up would look faster than it is
    pieces, loads = _work(plan, wanted)
    expected = estimated_videos(pieces, loads, earlier_videos(plan, inference.how)) if is_typical else None
    if expected:
        log.get().info("estimate", says=estimate_words(expected, f"{inference.how} on {plan.settings.host}"))
    with showing(config.console.progress.value, invocation.err, expected.total_s if expected else None) as shown:
        watch = Watch(shown)
        try:
            generate(wanted, plan, inference, paths, watch, ended)
        finally:
            table = [_row(take, ended.get(take.id), paths) for take in wanted]
            body = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in table)
            write_atomic(paths.inference_results, f"[\n{body}\n]\n")
    measured = watch.measured(expected.as_seconds() if expected else {}, {})
    loading = measured.phases.get(LOADING)
    if is_typical and loading and all(record["state"] == DONE for record in ended.values()):
        past = PastVideos(pieces, loading.amount, loading.busy_s, measured.seconds)
        remember_videos(plan, inference.how, past)
    _show_end(table, paths, measured, invocation)
    return ExitCode.OK if all(row["state"] == "done" for row in table) else ExitCode.INCOMPLETE


def _work(plan: Plan, wanted: Sequence[Take]) -> tuple[int, int]:
    """The pieces that all videos are made in, and how often the model is loaded for them."""
    asked = {take.id: (item.video, take.spec) for item, take in zip(plan.items, wanted, strict=True) if take.id}
    pieces = sum(pieces_of(video.frames) for video, _ in asked.values() if video)
    return pieces, len({spec for _, spec in asked.values()})


def _rows(plan: Plan, paths: RunPaths) -> list[dict[str, Any]] | None:
    """The rows of results.json, in the order of the plan; None for a run that upsampled nothing."""
    if paths.results.exists():
        table: list[dict[str, Any]] = json.loads(paths.results.read_text(encoding="utf-8"))
        if [row["id"] for row in table] == [item.id for item in plan.items]:
            return table
    if not paths.journal.exists():
        return None
    return list(result_rows(plan, read_outcomes(paths.journal), paths, "did not end"))


def _row(take: Take, record: Record | None, paths: RunPaths) -> dict[str, Any]:
    """A row of inference.json."""
    state = record["state"] if record else (SKIPPED if take.left_out else "unfinished")
    video = paths.videos / f"{take.slug}.mp4"
    return {
        "id": take.id,
        "name": take.name,
        "state": state,
        "reason": record["reason"] if record else take.left_out or "did not end",
        "note": take.note,
        "prompt": take.prompt,
        "prompt_from": take.source,
        "input_video": take.video_path,
        "video": str(video.relative_to(paths.root)) if state == "done" else None,
        "sha256": record.get("sha256") if record else None,
        "seconds": record["seconds"] if record else None,
        "attempts": record["attempts"] if record else 0,
    }


def _show_end(table: list[dict[str, Any]], paths: RunPaths, measured: Measured, invocation: Invocation) -> None:
    out, states = invocation.out, Counter(row["state"] for row in table)
    out.print(
        f"{states['done']} videos, {states['failed']} failed, {states[SKIPPED]} left out  ·  {words(measured.seconds)}",
        style="bold",
        highlight=False,
    )
    for (state, reason), count in Counter((r["state"], r["reason"]) for r in table if r["state"] != "done").most_common(
        10
    ):
        out.print(f"  {count} {state}: {text.printable(reason)}", markup=False, highlight=False, soft_wrap=True)
    if off := error_words(measured.estimated_s, measured.seconds):
        out.print(off, markup=False, highlight=False)
    for path in (paths.videos, paths.inference_results):
        out.print(f"{path.name:<13} {path}", markup=False, highlight=False, soft_wrap=True)
