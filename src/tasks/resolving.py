"""What tasks share at their start: the plan, resolved with progress shown, and written down."""

from __future__ import annotations

from pathlib import Path

from src.paths import RunPaths, appearing
from src.plan import Plan, write_plan
from src.progress import showing
from src.resolve import resolve
from src.tasks import Invocation


def resolve_shown(invocation: Invocation, files: list[Path] | None = None) -> Plan:
    """The plan of this config, or of its settings and these prompt files; long probing is shown."""
    config = invocation.config
    with showing(config.console.progress.value, invocation.err) as progress:
        return resolve(config, files=files, on_probe=lambda done, total: progress.step("clips probed", done, total))


def save_plan(plan: Plan, paths: RunPaths) -> None:
    with appearing(paths.plan) as f:
        write_plan(plan, f)
