"""`task=plan`: print what would run, to the token. Nothing is started; plan.json is written."""

from __future__ import annotations

from ..errors import ExitCode
from ..planning.plan_file import read_plan
from ..reports.tables import print_plan
from ..runs.saved_run import save_plan
from ..timing.estimates import estimate, estimate_text, where_text
from . import Invocation
from .resolving import resolve_with_progress


def run(invocation: Invocation) -> ExitCode:
    """Exit code 3 when something cannot be served. With resume=, the plan of that run is printed."""
    if invocation.config.resume:
        plan = read_plan(invocation.paths.plan)
    else:
        plan = resolve_with_progress(invocation)
        save_plan(plan, invocation.paths)
    print_plan(plan, invocation.out)
    if plan.summary.sent:
        invocation.print(estimate_text(estimate(plan), where_text(plan)))
    invocation.print(f"plan.json     {invocation.paths.plan}")
    return ExitCode.OK if plan.summary.refused == 0 else ExitCode.INCOMPLETE
