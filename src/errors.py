"""Every error that a user can meet, and the exit code it ends with.

    UpsamplerError                 1   a bug (anything unexpected is treated alike)
    ├── InputError                 2   bad prompts, videos or config: nothing was started
    │   └── SpecError              2   one or many problems in prompt files, all listed
    ├── VideoError                 -   one video cannot be used: its items only
    ├── HintError                  -   one hint cannot be rendered: its items only
    ├── HostError                  4   host, container engine or disk
    │   ├── FolderGone             4   a folder on the host that another controller may have removed
    │   ├── AuthError              5   authentication or host key refused
    │   │   └── UnknownHostKey     5   a host key that has not been accepted yet
    │   └── LinkLost               6   the link to the host is gone, the job may still be running
    ├── Detached                 130   detached from a job that runs on elsewhere
    ├── EngineError                7   the model could not be loaded
    └── RunLocked                 75   another process uses this run folder

An error carries the facts (what, where) and what to do next. The module that owns a foreign package turns its exceptions
into one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m src.run`; a promise to scripts."""

    OK = 0  # every item ended as upsampled
    BUG = 1  # a bug in this program
    INPUT = 2  # bad input or config, nothing was started
    INCOMPLETE = 3  # finished, some items kept or failed
    HOST = 4  # host, container engine or disk
    AUTH = 5  # authentication or host key
    LINK = 6  # link lost, the job may still be running
    ENGINE = 7  # the model could not be loaded
    LOCKED = 75  # another run holds the folder (EX_TEMPFAIL)
    INTERRUPTED = 130  # Ctrl-C, resumable


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that an error ends the program with."""
    if isinstance(error, UpsamplerError):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.HOST if isinstance(error, OSError) else ExitCode.BUG


class UpsamplerError(Exception):
    """Base of all errors; `hint` is what to do about it."""

    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message


class InputError(UpsamplerError):
    """Bad input or config; raised before anything starts."""

    exit_code = ExitCode.INPUT


class SpecError(InputError):
    """Problems in prompt files: each is 'file, item, field: what is wrong'."""

    MAX_SHOWN = 50

    def __init__(self, problems: Sequence[str]) -> None:
        listed = "\n".join(f"  - {p}" for p in problems[: self.MAX_SHOWN])
        more = len(problems) - self.MAX_SHOWN
        rest = f"\n  … and {more} more" if more > 0 else ""
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            f"{count} in the prompts; nothing was started:\n{listed}{rest}",
            hint="fix the items listed above and run the same command again",
        )
        self.problems = tuple(problems)


class VideoError(UpsamplerError):
    """One video cannot be used; only its own items are affected."""


class HintError(UpsamplerError):
    """The hint of one video cannot be rendered; only its own items are affected."""


class HostError(UpsamplerError):
    """The host, its container engine or its disk refused something."""

    exit_code = ExitCode.HOST


class FolderGone(HostError):
    """A folder on the host to which something was to be sent is not there."""

    def __init__(self, message: str, *, folder: str) -> None:
        super().__init__(message, hint="resume the run: it creates its folders again")
        self.folder = folder


class AuthError(HostError):
    """The host is not the known one, or login failed. Never retried."""

    exit_code = ExitCode.AUTH


class UnknownHostKey(AuthError):
    """A host key that has not been accepted yet; `entry` is the known_hosts line that would accept it."""

    def __init__(self, message: str, *, hint: str, entry: str) -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class LinkLost(HostError):
    """The link to the host, or to its Docker daemon, is lost; what runs there is unknown."""

    exit_code = ExitCode.LINK


class Detached(UpsamplerError):
    """Detached on request from a job that runs on elsewhere."""

    exit_code = ExitCode.INTERRUPTED


class EngineError(UpsamplerError):
    """The engine could not be started; carries its own last lines."""

    exit_code = ExitCode.ENGINE


class RunLocked(UpsamplerError):
    """Another process uses this run folder."""

    exit_code = ExitCode.LOCKED
