"""`task=plan`: print what would run, to the token. Nothing is started; plan.json and plan.csv are written."""

from __future__ import annotations

import shlex

from ..errors import ExitCode
from ..planning.plan import Plan
from ..planning.plan_file import read_plan
from ..reports.plan_summary import as_json, lines_of, tabulated
from ..reports.tables import print_plan
from ..text import printable, resume_command
from ..timing.estimates import estimate, estimate_text, where_text
from . import Invocation
from .resolving import saved_plan


def run(invocation: Invocation) -> ExitCode:
    """Exit code 3 when something cannot be served. With resume=, the plan of that run is printed."""
    plan, paths = _plan(invocation), invocation.paths
    groups, runs = tabulated(plan, paths.plan_table), plan.summary.sent > 0
    time = estimate_text(estimate(plan), where_text(plan)) if runs else ""
    if invocation.wants_json:
        files = {"run": str(paths.root), "plan": str(paths.plan), "table": str(paths.plan_table)}
        command = resume_command(paths.root) if runs else None
        invocation.print_json(as_json(plan, groups, {**files, "estimate": time or None, "command": command}))
    else:
        for line in lines_of(plan, groups):
            invocation.print(printable(line))
        print_plan(plan, invocation.out)
        if time:
            invocation.print(time)
        for path in (paths.plan, paths.plan_table):
            invocation.print(f"{path.name:<13} {path}")
        if runs:
            invocation.print(f"run it        {resume_command(paths.root)}")
    return ExitCode.OK if plan.summary.refused == 0 else ExitCode.INCOMPLETE


def _plan(invocation: Invocation) -> Plan:
    if invocation.config.resume or invocation.config.run:
        return read_plan(invocation.paths.plan)
    command = [word for word in shlex.split(invocation.command) if word != "task=plan"]
    return saved_plan(invocation, shlex.join(command))
