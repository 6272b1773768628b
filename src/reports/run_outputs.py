"""The outputs of a run, written from its journal: results, exports, report."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__, log
from ..counted import Step, counted, no_step
from ..errors import InputError
from ..planning.plan import Plan, PlanItem
from ..run_folder import RunPaths
from ..runs.run_record import read_record, record_more
from ..text import resume_command
from ..timing.phases import Measured, WorkerLifetime, read_starts, worker_lifetimes
from ..timing.run_facts import Bar, WindowLine, cost_of, run_facts, timeline, window_lines, worker_timeline
from ..worker.journal import read_records
from ..worker.protocol import FAILED, Event, Outcome
from . import exports, results
from .reviews import read_marks, reviewed
from .rows import STANDALONE_ITEMS, ReportRows, Row, items_as_they_ended, read_rows, report_row, row_of
from .totals import Totals

if TYPE_CHECKING:
    from .report import ItemFiles

MAX_REASONS = 20  # for items that were not upsampled, in the report


def versions() -> dict[str, str]:
    """Versions of this program, with its commit where it runs from a checkout, and of what it runs on."""
    packages = {name: metadata.version(name) for name in ("av", "mistral_common", "pillow")}
    program = " ".join(filter(None, (__version__, _commit())))
    return {"prompt upsampler": program, "Python": platform.python_version(), **packages}


def _commit() -> str:
    """The commit that is checked out, with "-dirty" if files differ from it; "" for a program that was installed."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    try:
        described = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError) as e:
        log.get().debug("commit_unknown", reason=str(e))
        return ""


def workers_of(paths: RunPaths) -> tuple[WorkerLifetime, ...]:
    """All workers of a run."""
    return tuple(life for events in _events(paths) for life in worker_lifetimes(events))


def _events(paths: RunPaths) -> Iterator[Iterator[Event]]:
    """What the workers of each job wrote down."""
    return (read_records(file, Event, log.left_out) for file in sorted(paths.jobs.glob("*/events.jsonl")))


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the rows of results.json, their totals, and the paths of exports."""

    table: Sequence[Row]
    totals: Totals
    exported: Sequence[Path]


def written_before(plan: Plan, paths: RunPaths, also: Iterable[str] = ()) -> Written | None:
    """The outputs of a run as they are, where all are as they were written, and since what they are made of; else None."""
    wanted = [exports.path_of(name, plan, paths) for name in dict.fromkeys((*plan.settings.exports, *also))]
    outputs, known = _outputs(plan, paths, wanted), read_record(paths).outputs
    sources = [path for path in (paths.plan, paths.journal, paths.review) if path.exists()]
    try:
        stamps = {path.name: _stamp_of(path) for path in outputs}
        if any(stamp != known.get(name) for name, stamp in stamps.items()):
            return None
        if min(changed_ns for _, changed_ns in stamps.values()) < max(_stamp_of(path)[1] for path in sources):
            return None
        table, totals = read_rows(paths.results, is_own=True), Totals()
        for row in table:
            totals.add(row)
    except (FileNotFoundError, InputError):
        return None
    return Written(table, totals, wanted)


def _exports_of_before(plan: Plan, paths: RunPaths) -> dict[Path, str]:
    """The exports that an earlier start wrote, and that are as it left them: they would contradict results.json."""
    known = read_record(paths).outputs
    there = {path: name for path, name in exports.writable(plan, paths).items() if path.name in known and path.exists()}
    return {path: name for path, name in there.items() if tuple(known[path.name]) == _stamp_of(path)}


def _outputs(plan: Plan, paths: RunPaths, exported: Iterable[Path]) -> list[Path]:
    specs = {"beside": [paths.specs_list], "files": [paths.specs]}.get(plan.settings.spec_output, [])
    report = [paths.report] if plan.settings.report else []
    return [paths.results, paths.summary, paths.batch, *specs, *report, *exported]


def _stamp_of(path: Path) -> tuple[int, int]:
    """Bytes and time of the last change, in ns, of a file, or of all in a folder together: enough to see that it was
    changed."""
    entries = (entry.stat() for entry in os.scandir(path) if entry.is_file()) if path.is_dir() else ()
    found = [path.stat(), *entries]
    return sum(stat.st_size for stat in found), max(stat.st_mtime_ns for stat in found)


def windows_of(paths: RunPaths) -> tuple[tuple[WindowLine, ...], ...]:
    """How many requests each worker of a run had in flight, where it found that out itself."""
    return tuple(trace for events in _events(paths) if (trace := window_lines(events)))


def write_results(
    plan: Plan,
    outcomes: Mapping[str, Outcome],
    paths: RunPaths,
    command: str,
    unfinished: str,
    also: Iterable[str] = (),
    step: Step = no_step,
    *,
    quick: bool = False,
) -> Written:
    """Write the outputs with the review verdicts applied.

    unfinished: the reason for items that did not end. also: exports beyond those of the plan. step: told of the progress.
    quick: without the exports that take long; they are as they were.
    """
    starts = read_starts(paths.timings)
    ended = datetime.fromisoformat(starts[-1].ended) if starts else datetime.now().astimezone()
    marks, totals = read_marks(paths.review), Totals()
    hints = results.linked_hints(plan, paths)
    rows: Iterator[tuple[PlanItem, Row]] = (
        (item, totals.add(reviewed(row_of(item, outcome, hints, plan.settings), marks.get(item.name)), outcome))
        for item, outcome in counted(
            items_as_they_ended(plan, outcomes, unfinished), "results written", step, len(plan.items)
        )
    )
    with ExitStack() as stack:
        items = None
        if plan.settings.report and len(plan.items) > STANDALONE_ITEMS:
            from .report import item_files

            items = stack.enter_context(item_files(paths.report))
            rows = _added(rows, items, paths.root.absolute())
        table = results.write_exports(plan, rows, paths, ended)
        names = [name for name in (*plan.settings.exports, *also) if not (quick and name in exports.SLOW)]
        wanted = {exports.path_of(name, plan, paths): name for name in names}
        before = {} if quick else _exports_of_before(plan, paths)
        exported = [exports.write(name, plan, table, paths, outcomes) for name in (before | wanted).values()]
        if plan.settings.report:
            facts = _facts(plan, totals, outcomes, starts, paths, ended, command)
            _write_report(plan, paths, facts, totals, table, starts, items)
    _record_end(plan, totals, outcomes, paths, starts, exported)
    return Written(table, totals, exported)


def _write_report(
    plan: Plan,
    paths: RunPaths,
    facts: tuple[tuple[str, str], ...],
    totals: Totals,
    table: Sequence[Row],
    starts: Sequence[Measured],
    items: ItemFiles | None,
) -> None:
    from .report import Report, write_report

    settings = plan.settings
    report = Report(
        read_record(paths).title,
        facts,
        settings.max_model_len,
        settings.max_output_tokens,
        totals,
        ReportRows(plan, table, paths),
        _timelines(starts, workers_of(paths)),
        windows_of(paths),
        tuple((state, reason, count) for (state, reason), count in totals.reasons.most_common(MAX_REASONS)),
        f"{resume_command(paths.root)} retry=failed" if totals.ended[FAILED] else "",
        settings.embed_mb,
    )
    write_report(report, paths.report, items)


def _added(rows: Iterable[tuple[PlanItem, Row]], items: ItemFiles, root: Path) -> Iterator[tuple[PlanItem, Row]]:
    """The rows, each added to the items of a report after it was used, which may have changed its note."""
    for item, row in rows:
        yield item, row
        items.add(report_row(item, row, root))


def _timelines(
    starts: Sequence[Measured], workers: Sequence[WorkerLifetime]
) -> tuple[tuple[str, tuple[Bar, ...]], ...]:
    """The phases of each start and, of several workers, who ran when; each with its title."""
    phases = [
        (f"Start {n} of {len(starts)}" if len(starts) > 1 else "Time by phase", timeline(start))
        for n, start in enumerate(starts, start=1)
    ]
    return (*phases, *([("Workers", worker_timeline(workers))] if len(workers) > 1 else []))


def _record_end(
    plan: Plan,
    totals: Totals,
    outcomes: Mapping[str, Outcome],
    paths: RunPaths,
    starts: tuple[Measured, ...],
    exported: Iterable[Path],
) -> None:
    """For the list of runs: how the items ended, once all have, and what that took."""
    if all(item_id in outcomes for item_id in plan.ids):
        tokens = totals.tokens.measured + totals.output_tokens
        seconds, cost = sum(start.seconds for start in starts), cost_of(plan, workers_of(paths))
        states = {state: count for state, count in totals.ended.items() if count}
        outputs = {path.name: _stamp_of(path) for path in _outputs(plan, paths, exported) if path.exists()}
        record_more(paths, states=states, tokens=tokens or None, seconds=round(seconds, 3), cost=cost, outputs=outputs)


def _when(plan: Plan, outcomes: Mapping[str, Outcome], ended: datetime) -> tuple[str, str]:
    """When the run ended, or how far it is."""
    time, done = f"{ended:%Y-%m-%d %H:%M:%S %z}", sum(item_id in outcomes for item_id in plan.ids)
    if done < len(plan.items):
        return "Unfinished", f"{done:,} of {len(plan.items):,} items ended, by {time}"
    return "Finished", time


def _facts(
    plan: Plan,
    totals: Totals,
    outcomes: Mapping[str, Outcome],
    starts: tuple[Measured, ...],
    paths: RunPaths,
    ended: datetime,
    command: str,
) -> tuple[tuple[str, str], ...]:
    """The facts of the run as a whole, for the report."""
    settings = plan.settings
    engines = sorted(totals.engines)
    used = starts[-1].versions if starts else versions()
    return (
        ("Recipe", settings.recipe),
        ("Engine", ", ".join(engines) or settings.engine.name),
        ("Model", settings.model.name if settings.engine.name != "offline" else "none"),
        ("Budget", f"{settings.max_model_len:,} tokens, {settings.max_output_tokens:,} reserved for each answer"),
        ("Target", settings.target.name),
        ("Template", settings.template),
        ("Host", settings.host.name),
        _when(plan, outcomes, ended),
        *run_facts(plan, totals.tokens, starts, workers_of(paths)),
        ("Versions", ", ".join(f"{name} {version}" for name, version in used.items())),
        ("Run", str(paths.root)),
        *([("Videos", paths.videos_page.name)] if paths.pipeline.exists() else []),
        ("Command", paths.command.read_text().strip() if paths.command.exists() else command),
    )
