"""`task=attach run=FOLDER`: take a run up again, wherever its job runs; the same as resume=FOLDER."""

from __future__ import annotations

from dataclasses import replace

from ..errors import ExitCode, InputError
from . import Invocation, upsample


def run(invocation: Invocation) -> ExitCode:
    """Exit codes as for task=upsample."""
    folder = invocation.config.run or invocation.config.resume
    if not folder:
        raise InputError("task=attach: which run?", hint="name its folder: run=outputs/DATE/TIME")
    return upsample.run(replace(invocation, config=replace(invocation.config, resume=folder)))
