"""`task=upsample`: plan, render, ask, report; or, with resume=, take a run up where it stopped."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

from src import exports, log, results
from src.errors import EngineError, ExitCode
from src.execute import execute, locked
from src.outcomes import UPSAMPLED, Outcome, read_outcomes
from src.paths import write_atomic
from src.plan import Plan, read_plan
from src.progress import showing
from src.tables import advice, show_end
from src.tasks import Invocation
from src.tasks.resolving import resolve_shown, save_plan
from src.timings import remember, words


def run(invocation: Invocation, most: int | None = None, files: list[Path] | None = None) -> ExitCode:
    """Exit code 0 when every item was upsampled, 3 when some were kept or failed.

    most: so many items at most. files: prompt files in place of those that the config names.
    """
    config, paths = invocation.config, invocation.paths
    with locked(paths):
        plan = _plan(invocation, most, files)
        started = time.monotonic()
        try:
            with showing(config.console.progress.value, invocation.err) as progress:
                outcomes = execute(plan, paths, progress)
        except EngineError as e:
            _finish(plan, read_outcomes(paths.journal), invocation, e.message, time.monotonic() - started)
            raise
        took_s = time.monotonic() - started
        if not config.resume and not config.reuse:  # a run that found answers would look faster than it is
            remember(plan, sum(1 for o in outcomes.values() if o.attempts), took_s)
        return _finish(plan, outcomes, invocation, "did not end", took_s)


def _plan(invocation: Invocation, most: int | None, files: list[Path] | None) -> Plan:
    """The plan of the run folder when resuming, else a new one, on disk before anything else happens."""
    config, paths = invocation.config, invocation.paths
    if config.resume:
        log.get().info("run_resumed", run=str(paths.root), note="its plan.json decides; prompts are not read again")
        return read_plan(paths.plan)
    plan = resolve_shown(invocation, files)
    if most is not None:
        first = [item for item in plan.items if item.fits][:most]
        plan = replace(plan, items=tuple(first), batches=(tuple(item.id for item in first),))
    save_plan(plan, paths)
    write_atomic(paths.command, invocation.command + "\n")
    if config.console.level.value in ("debug", "info"):
        for line in advice(plan):
            invocation.err.print(log.printable(line), markup=False, highlight=False, soft_wrap=True, style="dim")
    return plan


def _finish(
    plan: Plan, outcomes: Mapping[str, Outcome], invocation: Invocation, unfinished: str, took_s: float
) -> ExitCode:
    """Write what the run leaves behind and say how it ended."""
    paths, now = invocation.paths, datetime.now().astimezone()
    results.link_hints(plan, outcomes, paths)
    table = list(results.rows(plan, outcomes, paths, unfinished))
    results.write_exports(plan, table, paths, now)
    wanted = dict.fromkeys((*plan.settings.exports, *(e.value for e in invocation.config.output.exports)))
    exported = [exports.write(name, plan, table, paths) for name in wanted]
    if plan.settings.report:
        from src.report import Report, write_report

        rows = results.report_rows(plan, table, paths)
        settings = plan.settings
        title = f"{settings.recipe} · {settings.engine.name}"
        facts = _facts(plan, outcomes, invocation, now, took_s)
        write_report(Report(title, facts, settings.max_model_len, settings.max_output_tokens, rows), paths.report)
    show_end(plan, table, paths, took_s, invocation.out, exported)
    return ExitCode.OK if all(row["state"] == UPSAMPLED for row in table) else ExitCode.INCOMPLETE


def _facts(
    plan: Plan, outcomes: Mapping[str, Outcome], invocation: Invocation, now: datetime, took_s: float
) -> tuple[tuple[str, str], ...]:
    """What the report says about the run as a whole."""
    settings, paths = plan.settings, invocation.paths
    engines = sorted({f"{o.engine['name']} {o.engine['version']}" for o in outcomes.values() if o.engine})
    ours = ("av", "mistral_common", "pillow")
    versions = [f"Python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in ours)]
    return (
        ("Recipe", settings.recipe),
        ("Engine", ", ".join(engines) or settings.engine.name),
        ("Model", settings.model.name if settings.engine.name != "offline" else "none"),
        ("Budget", f"{settings.max_model_len} tokens, {settings.max_output_tokens} reserved for each answer"),
        ("Template", settings.template),
        ("Host", settings.host),
        ("Finished", f"{now:%Y-%m-%d %H:%M:%S %z}"),
        ("Took", words(took_s)),
        ("Versions", ", ".join(versions)),
        ("Run", str(paths.root)),
        ("Command", paths.command.read_text().strip() if paths.command.exists() else invocation.command),
    )
