"""`task=report run=FOLDER`: results, summary, report and exports of a run as it stands, also while it goes on or after a crash.

Reads what is on this machine; the run itself stays as it is.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from ..errors import ExitCode, InputError
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.run_outputs import write_results
from ..reports.tables import print_end, print_files
from ..run_folder import RunPaths
from ..runs.outcomes import Outcomes
from ..runs.run_record import read_record
from ..runs.run_state import state_of
from ..text import resume_command
from ..worker.protocol import REFUSED, Outcome
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 when the files are written, whatever state the run is in."""
    if not invocation.config.run:
        raise InputError("task=report: which run?", hint="name its folder: run=outputs/DATE/TIME, or run=latest")
    paths = RunPaths(Path(invocation.config.run))
    plan, state = read_plan(paths.plan), state_of(paths, read_record(paths))
    outcomes = known_outcomes(paths)
    ended = sum(item_id in outcomes for item_id in plan.ids)
    is_whole = ended == len(plan.items)
    reason = "did not end" if state.word == "complete" else f"not answered yet ({state.word})"
    also = [export.value for export in invocation.config.output.exports]
    written = write_results(_as_report(plan, is_whole), outcomes, paths, invocation.command, reason, also)
    if is_whole:
        print_end(plan, written.totals, paths, None, invocation.out, written.exported)
    else:
        invocation.print(str(replace(state, done=ended)))
        print_files(plan, paths, invocation.out, written.exported)
        if state.word != "running":
            invocation.print(f"resume        {resume_command(paths.root)}")
    return ExitCode.OK


def _as_report(plan: Plan, is_whole: bool) -> Plan:
    """The plan to write results by: the user's own prompt files are updated only at the end of a run."""
    if is_whole or plan.settings.spec_output != "in_place":
        return plan
    return replace(plan, settings=replace(plan.settings, spec_output="none"))


def known_outcomes(paths: RunPaths) -> Mapping[str, Outcome]:
    """How items ended, by id: what the run's journal has, and what its workers wrote that no controller has taken yet."""
    journals = [Outcomes(paths.journal)]
    for file in sorted(paths.jobs.glob("*/results.jsonl")):
        written = Outcomes(file)
        for item_id in [item_id for item_id in written if written.state_of(item_id) == REFUSED]:
            written.forget(item_id)
        journals.append(written)
    return ChainMap(*cast(list[dict[str, Outcome]], journals))
