"""`task=review run=FOLDER`: accept, reject or edit the texts of a run before they are used.

Where there is a terminal it serves a page for a browser; elsewhere, or with review.terminal=true, it asks here. The fields of
`review` can hold the verdicts instead. The exports are written again. With review.rerun, the rejected items are upsampled
again, as a run of their own.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import log
from ..choices import TaskName
from ..config import ReviewConf
from ..errors import ExitCode, InputError
from ..files import write_atomic
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports import results, rows
from ..reports.review_queue import ReviewedRun, ReviewQueue
from ..reports.reviews import (
    ACCEPTED,
    EDITED,
    REJECTED,
    Mark,
    marks_from,
    now,
    open_rows,
    read_marks,
    read_verdicts,
    rejected_names,
)
from ..reports.run_outputs import write_results
from ..run_folder import SWEEP_RECORD, RunPaths, link_in, locked, run_folders
from ..runs.outcomes import Outcomes
from ..text import PROGRAM, hydra_quoted, overrides_in, printable, resume_command, run_command
from ..worker.protocol import UPSAMPLED
from . import Invocation, refuse_foreign_run, run_task

PAGE = 20
Ask = Callable[[str], str]


def run(invocation: Invocation) -> ExitCode:
    config, asked = invocation.config, invocation.config.review
    runs = [paths for folder in config.runs or filter(None, [config.run]) for paths in _runs_in(Path(folder))]
    if not runs:
        raise InputError(
            "task=review: which run?", hint="name its folder: run=outputs/DATE/TIME, or several: runs=[A,B]"
        )
    for paths in runs:
        if paths.root != Path(config.run or ""):  # which was checked before the task began
            if link := link_in(paths.root):
                raise InputError(f"{paths.root}: {link} is a link, and a run folder has none", hint="remove it")
            refuse_foreign_run(paths, config)
        if not paths.results.is_file():
            raise InputError(
                f"{paths.root}: has no results yet", hint=f"finish it first:  {resume_command(paths.root)}"
            )
    if asked.rerun:
        if config.runs or [paths.root for paths in runs] != [Path(config.run or "")]:
            raise InputError("review.rerun: takes one run at a time", hint="name it with run=FOLDER")
        return _rerun(invocation, runs[0])
    with ExitStack() as locks:
        for paths in runs:
            locks.enter_context(locked(paths, config.output.lock_timeout_s))
        opened = [_opened(paths) for paths in runs]
        new = _given(asked, opened)
        serves = not new and _wants_page(asked)
        stopped: KeyboardInterrupt | None = None
        if serves:
            _serve(opened, invocation)
        elif new:
            opened[0].write(new)
        elif sys.stdin.isatty():
            try:
                _ask(opened, invocation)
            except KeyboardInterrupt as e:  # the verdicts given until then count
                stopped = e
        tables = [
            write_results(one.plan, one.outcomes, one.paths, invocation.command, one.unfinished).table for one in opened
        ]
    if stopped:
        raise stopped
    for one, table in zip(opened, tables, strict=True):
        if asked.page and not serves:
            _show(table, asked.page, invocation)
        _count(table, one.paths, invocation)
    return ExitCode.OK


def _runs_in(folder: Path) -> list[RunPaths]:
    """A run, or the points of a sweep that have results."""
    if (folder / SWEEP_RECORD).is_file():
        return [paths for point in sorted(run_folders(folder)) if (paths := RunPaths(point)).results.is_file()]
    return [RunPaths(folder)]


def _opened(paths: RunPaths) -> ReviewedRun:
    outcomes = Outcomes(paths.journal)
    return ReviewedRun(paths, read_plan(paths.plan), outcomes, _reason_of_unfinished(paths, outcomes))


def _given(asked: ReviewConf, opened: Sequence[ReviewedRun]) -> list[Mark]:
    """The verdicts in the fields of `review`, checked against the run."""
    at = now()
    given = [*(Mark(n, ACCEPTED, at=at) for n in asked.accept), *(Mark(n, REJECTED, at=at) for n in asked.reject)]
    given += [Mark(name, EDITED, text, at) for name, text in _edits(asked.edit).items()]
    given += read_verdicts(Path(asked.verdicts).expanduser(), Mark) if asked.verdicts else []
    if not given and not asked.all:
        return []
    if len(opened) > 1:
        raise InputError("review: verdicts can be given to one run at a time", hint="name it with run=")
    [one] = opened
    return marks_from(list(one.rows()), one.marks, given, asked.all.value if asked.all else None)


# -------------------------------------------------------------------------------------------------------------- the page


def _wants_page(asked: ReviewConf) -> bool:
    if asked.terminal is None:
        return asked.open or asked.port > 0 or sys.stdin.isatty()
    return not asked.terminal


def _serve(opened: Sequence[ReviewedRun], invocation: Invocation) -> None:
    """Serve the page until someone finishes there, or Ctrl-C; either way the verdicts count."""
    from ..reports.page_server import serve_page
    from ..reports.review_server import ReviewServer

    asked, queue = invocation.config.review, ReviewQueue(opened)
    words = "review", "Finish on the page, or Ctrl-C here; each verdict is saved at once"
    serve_page(lambda port: ReviewServer(queue, asked.reasons, port), asked.port, asked.open, words, invocation.print)
    queue.close()


def _edits(given: Any) -> dict[str, str]:
    """review.edit: better texts by name, on the command line or in a JSON file."""
    if isinstance(given, str):
        try:
            given = json.loads(Path(given).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as e:
            raise InputError(f"review.edit={given}: cannot be read as JSON: {e}") from None
    if given is not None and not isinstance(given, dict):
        raise InputError("review.edit: must map names to texts", hint="""'review.edit={boat: "A boat, at dusk."}'""")
    if wrong := [name for name, text in (given or {}).items() if not isinstance(text, str)]:
        raise InputError(
            f"review.edit, item {wrong[0]}: is not text", hint="""'review.edit={boat: "A boat, at dusk."}'"""
        )
    return {str(name): text for name, text in (given or {}).items()}


def _reason_of_unfinished(paths: RunPaths, outcomes: Mapping[str, object]) -> str:
    """The reason for items that did not end, from results.json."""
    return next((row["reason"] for row in rows.read_rows(paths.results) if row["id"] not in outcomes), "did not end")


# ------------------------------------------------------------------------------------------------- asked on a terminal


def _ask(opened: Sequence[ReviewedRun], invocation: Invocation) -> None:
    for one in opened:
        for mark in _answers(open_rows(one.rows(), one.marks), one.paths, invocation, input):
            one.write([mark])


def _answers(rows: Sequence[rows.Row], run: RunPaths, invocation: Invocation, ask: Ask) -> Iterator[Mark]:
    """A verdict for each row, until the person quits."""
    out = invocation.out
    for n, row in enumerate(rows, start=1):
        out.rule(f"{n} of {len(rows)}  {printable(row['name'])}", align="left", style="dim")
        clip = run.root / row["preprocessed_video"] if row["preprocessed_video"] else row["video_path"]
        for label, text in (("clip", clip), ("before", row["original_prompt"]), ("after", row["upsampled_prompt"])):
            out.print(f"{label:<8}", end="", style="dim")
            out.print(printable(str(text or "–")), markup=False, highlight=False, soft_wrap=True)
        while True:
            text = ""
            try:
                reply = ask("use it? y(es) n(o) e(dit) s(kip) q(uit) ").strip().lower()[:1]
                if reply == "e":
                    text = edited(row["upsampled_prompt"] or "", ask)
            except EOFError:
                out.print()
                return
            if reply == "q":
                return
            if reply == "s":
                break
            if reply == "e":
                if text.strip() and text != row["upsampled_prompt"]:
                    yield Mark(row["name"], EDITED, text, now())
                    break
                out.print("nothing changed")
            elif reply not in ("y", "n"):
                out.print("y: use the text  n: keep the original prompt  e: edit the text  s: skip  q: quit")
            if reply in ("y", "n"):
                yield Mark(row["name"], ACCEPTED if reply == "y" else REJECTED, at=now())
                break


def edited(text: str, ask: Ask) -> str:
    """The text as edited in $VISUAL or $EDITOR; without one, a new text on one line."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        return ask("better text (one line; empty: unchanged): ")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.txt"
        file.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(file)]).returncode
        except OSError as e:
            log.get().warning("editor_cannot_be_run", editor=editor, reason=e.strerror)
            return text
        return file.read_text(encoding="utf-8").rstrip("\n") if code == 0 else text


# ------------------------------------------------------------------------------------------------------- the table


def verdict_of(row: rows.Row) -> str:
    if row["review"]:
        return str(row["review"]["verdict"])
    return "open" if row["state"] == UPSAMPLED else str(row["state"])


def _show(table: Sequence[rows.Row], page: int, invocation: Invocation) -> None:
    from rich.table import Table
    from rich.text import Text

    pages = -(-len(table) // PAGE) or 1
    if not 1 <= page <= pages:
        raise InputError(f"review.page={page}: the last page is {pages}")
    listing = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 1, 0))
    listing.add_column("item", overflow="fold", max_width=24)
    listing.add_column("before", overflow="fold", ratio=1)
    listing.add_column("after", overflow="fold", ratio=2)
    listing.add_column("verdict", no_wrap=True)
    for row in table[(page - 1) * PAGE : page * PAGE]:
        before, after = row["original_prompt"], row["upsampled_prompt"]
        added = f"… {after[len(before) :].strip()}" if after and before and after.startswith(before) else after
        cells = (row["name"], before, added or row["reason"], verdict_of(row))
        listing.add_row(*(Text(printable(cell)) for cell in cells))
    invocation.out.print(listing)
    if page < pages:
        invocation.out.print(f"page {page} of {pages}; the next: review.page={page + 1}", style="dim", highlight=False)


def _count(table: Sequence[rows.Row], paths: RunPaths, invocation: Invocation) -> None:
    counts = Counter(verdict_of(row) for row in table)
    out = invocation.out
    out.print(", ".join(f"{n} {word}" for word, n in counts.most_common()), style="bold", highlight=False)
    if counts[REJECTED]:
        out.print(
            f"rerun the rejected items:  {run_command('task=review run', paths.root)} review.rerun=true sampling.seed=7",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"results.json  {paths.results}", markup=False, highlight=False, soft_wrap=True)


# ----------------------------------------------------------------------------------------------------- reruns of rejected items


def _rerun(invocation: Invocation, old: RunPaths) -> ExitCode:
    """A new run of the rejected items only; `overrides.with_inherited` has added the old run's overrides."""
    plan, paths, config = read_plan(old.plan), invocation.paths, invocation.config
    names = rejected_names(read_marks(old.review))
    rejected = [results.as_prompt(item) for item in plan.items if item.name in names]
    if not rejected:
        invocation.out.print("nothing is rejected in that run")
        return ExitCode.OK
    if _same_request(invocation, plan):
        log.get().warning(
            "same_request", note="the same answers are likely: change sampling.seed, template or upsample"
        )
    prompts = paths.root / "prompts.json"
    write_atomic(prompts, json.dumps(rejected, ensure_ascii=False, indent=1) + "\n")
    config = replace(config, prompts=str(prompts), run=None, resume=None)
    again = replace(invocation, config=config, command=_command(invocation.command, prompts))
    return run_task(again, TaskName.upsample)


def _same_request(invocation: Invocation, plan: Plan) -> bool:
    """Whether the requests would be the same, as far as the config shows."""
    config, settings = invocation.config, plan.settings
    sampling = config.sampling
    now = (sampling.seed, sampling.temperature, config.template.name, config.upsample.name, config.model.name)
    return now == (settings.seed, settings.temperature, settings.template, settings.recipe, settings.model.name)


def _command(command: str, prompts: Path) -> str:
    """The command that repeats the new run, whatever the verdicts are by then."""
    kept = [o for o in overrides_in(command) if not o.startswith(("task=", "run=", "prompts=", "review."))]
    return f"{PROGRAM} {shlex.join([f'prompts={hydra_quoted(str(prompts))}', *kept])}"
