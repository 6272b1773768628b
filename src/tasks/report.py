"""`task=report run=FOLDER`: results, summary, report and exports of a run as it stands, also while it runs or after a crash.

Reads what is on this machine; the run itself stays as it is. serve=true serves the report to a browser.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from ..errors import ExitCode, InputError
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.run_outputs import write_results, written_before
from ..reports.tables import print_end, print_files
from ..run_folder import RunPaths
from ..runs.outcomes import Outcomes
from ..runs.run_record import read_record
from ..runs.run_state import state_of
from ..text import overrides_in, resume_command
from ..worker.protocol import REFUSED, Outcome
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when the files are written, whatever state the run is in."""
    if not invocation.config.run:
        raise InputError("task=report: which run?", hint="name its folder: run=outputs/DATE/TIME, or run=latest")
    paths = RunPaths(Path(invocation.config.run))
    plan, state = read_plan(paths.plan), state_of(paths, read_record(paths))
    outcomes = known_outcomes(paths, plan.places)
    ended = sum(item_id in outcomes for item_id in plan.ids)
    is_whole = ended == len(plan.items)
    reason = "did not end" if state.word == "complete" else f"not answered yet ({state.word})"
    config = invocation.config
    also = [export.value for export in config.output.exports]
    stored, plan = plan, _as_report(plan, is_whole, invocation)
    is_same = config.serve and is_whole and plan.settings == stored.settings
    written = written_before(plan, paths, also) if is_same else None
    if written is None:
        with invocation.progress() as progress:
            written = write_results(plan, outcomes, paths, invocation.command, reason, also, progress.step)
    if is_whole:
        print_end(plan, written.totals, paths, None, invocation.out, written.exported)
    else:
        invocation.print(str(replace(state, done=ended)))
        print_files(plan, paths, invocation.out, written.exported)
        if state.word != "running":
            invocation.print(f"resume        {resume_command(paths.root)}")
    if config.serve:
        _serve(plan, paths, invocation)
    return ExitCode.OK


def _serve(plan: Plan, paths: RunPaths, invocation: Invocation) -> None:
    """Serve the report until Ctrl-C."""
    from ..reports.page_server import ReportServer, serve_page

    clips = {os.path.abspath(item.video.path) for item in plan.items if item.video}
    asked = invocation.config.review
    serve_page(
        lambda port: ReportServer(paths.report, clips, port), asked.port, asked.open, ("report", ""), invocation.print
    )


def _as_report(plan: Plan, is_whole: bool, invocation: Invocation) -> Plan:
    """The plan to write results by: the user's own prompt files are updated only at the end of a run."""
    settings, config = plan.settings, invocation.config
    if not is_whole and settings.spec_output == "in_place":
        settings = replace(settings, spec_output="none")
    if config.serve:
        settings = replace(settings, report=True)
    if any(override.startswith("output.embed_mb=") for override in overrides_in(invocation.command)):
        settings = replace(settings, embed_mb=config.output.embed_mb)
    return replace(plan, settings=settings)


def known_outcomes(paths: RunPaths, places: Mapping[str, int]) -> Mapping[str, Outcome]:
    """How items ended, by id: what the run's journal has, and what its workers wrote that no controller has taken yet."""
    journals = [Outcomes(paths.journal, places)]
    for file in sorted(paths.jobs.glob("*/results.jsonl")):
        written = Outcomes(file, places)
        for item_id in [item_id for item_id in written if written.state_of(item_id) == REFUSED]:
            written.forget(item_id)
        journals.append(written)
    return ChainMap(*cast(list[dict[str, Outcome]], journals))
