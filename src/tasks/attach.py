"""`task=attach run=FOLDER`: another spelling of resume=FOLDER."""

from __future__ import annotations

from ..errors import ExitCode, InputError
from . import Invocation, resume


def run(invocation: Invocation) -> ExitCode:
    """Exit codes as of the task that is resumed."""
    if not (folder := invocation.config.run or invocation.config.resume):
        raise InputError("task=attach: which run?", hint="name its folder: resume=outputs/DATE/TIME")
    return resume(invocation, folder)
