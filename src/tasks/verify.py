"""`task=verify run=FOLDER`: whether a run folder is still what its provenance.jsonl says, in one line."""

from __future__ import annotations

from pathlib import Path

from ..errors import ExitCode, InputError
from ..planning.plan_file import read_plan
from ..reports.provenance import problems_of
from ..run_folder import RunPaths
from ..runs.outcomes import Outcomes
from ..text import printable
from . import Invocation


def run(invocation: Invocation) -> ExitCode:
    """Exit code 0 where it holds, 3 where it does not."""
    if not invocation.config.run:
        raise InputError("task=verify: which run?", hint="name its folder: run=outputs/DATE/TIME, or run=latest")
    paths = RunPaths(Path(invocation.config.run))
    counts: dict[str, int] = {"items": 0, "answers": 0, "files": 0}
    try:
        problems = [*problems_of(read_plan(paths.plan), Outcomes(paths.journal), paths, counts)]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{paths.root}: cannot be verified: {e}", hint="name the folder of a finished run") from None
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        invocation.print(printable(f"does not hold: {problems[0]}{more}"))
        return ExitCode.INCOMPLETE
    invocation.print(f"holds: {counts['items']} items, {counts['answers']} answers, {counts['files']} clips and frames")
    return ExitCode.OK
