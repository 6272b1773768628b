"""What follows the end of a run, good or bad: its reason is kept in run.json, and a message is posted to notify.url."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from .. import __version__, log
from ..choices import TaskName
from ..config import NotifyConf
from ..errors import ExitCode, InputError, RunLocked, UpsamplerError, exit_code_of
from ..runs.run_record import read_record, record_more
from ..runs.run_state import state_of
from ..text import resume_command
from . import Invocation, run_invocation

RUNS = (TaskName.upsample, TaskName.attach, TaskName.pipeline, TaskName.limits)  # that run something, maybe for long
ATTEMPTS, LONGEST_PAUSE_S = 5, 8.0


def address(notify: NotifyConf) -> str:
    """Where messages go; "" for nowhere. Raises InputError for what is no address."""
    url = notify.url or (os.environ.get(notify.url_env, "") if notify.url_env else "")
    if notify.url_env and not url:
        raise InputError(f"notify.url_env: the environment variable {notify.url_env} is not set")
    try:
        is_one = (
            url.startswith(("http://", "https://")) and url.isprintable() and " " not in url and urlsplit(url).hostname
        )
    except ValueError:
        is_one = False
    if url and not is_one:
        raise InputError("notify.url: must be an address, as in https://example.org/hook")
    return url


def run(invocation: Invocation) -> ExitCode:
    """Run what the config asks for, and see to its end."""
    config = invocation.config
    runs_another = (config.task.name is TaskName.spec and config.then) or (
        config.task.name is TaskName.review and config.review.rerun
    )
    if config.task.name not in RUNS and not runs_another:
        return run_invocation(invocation)
    address(config.notify)  # rejected before anything starts
    is_old = invocation.paths.plan.exists()
    error: BaseException | None = None
    code = ExitCode.BUG
    try:
        code = run_invocation(invocation)
        return code
    except BaseException as e:
        error, code = e, exit_code_of(e)
        raise
    finally:
        _ended(invocation, error, code, is_old)


def _ended(invocation: Invocation, error: BaseException | None, code: ExitCode, is_old: bool) -> None:
    """After a task that runs something; what goes wrong here is logged and changes nothing. is_old: the run was there before: a
    command that is refused says nothing about it."""
    if isinstance(error, RunLocked):  # the run is another process's
        return
    failure = _reason(error)
    try:
        if invocation.paths.plan.exists() and not (is_old and isinstance(error, InputError)):
            record_more(invocation.paths, failure=failure)
        if not invocation.in_sweep and (url := address(invocation.config.notify)):
            message = _message(invocation, failure, code)
            if message["state"] in ("running", "detached"):
                log.get().warning("not_notified_yet", command=resume_command(invocation.paths.root))
            else:
                post(url, message, invocation.config.notify.timeout_s, 1 if code is ExitCode.INTERRUPTED else ATTEMPTS)
    except (OSError, UpsamplerError) as e:
        log.get().warning("end_not_recorded", reason=str(e))


def _reason(error: BaseException | None) -> str:
    if error is None or isinstance(error, KeyboardInterrupt):
        return ""
    if isinstance(error, UpsamplerError):
        return "" if error.exit_code is ExitCode.INTERRUPTED else error.message
    return f"{type(error).__name__}: {error}"


def _message(invocation: Invocation, failure: str, code: ExitCode) -> dict[str, Any]:
    """The message about one run. `text` is what chat programs show of it."""
    paths = invocation.paths
    facts: dict[str, Any] = {"task": invocation.config.task.name.value, "run": str(paths.root), "exit_code": int(code)}
    if paths.plan.exists():
        record = read_record(paths)
        state = state_of(paths, record)
        facts |= {
            "state": state.word,
            "name": record.name,
            "prompts": record.prompts,
            "done": state.done,
            "total": state.total,
            "states": dict(state.states),
            "seconds": record.seconds,
            "cost": record.cost,
            "report": str(paths.report) if paths.report.exists() else None,
        }
        text = f"{record.title}: {state}"
    else:
        facts["state"], text = "refused", f"task={facts['task']}: nothing was started"
    if failure:
        facts |= {"state": "failed", "error": failure}
    at = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"text": " – ".join(filter(None, (text, failure))), **facts, "machine": socket.gethostname(), "at": at}


def post(url: str, message: dict[str, Any], timeout_s: float = 10.0, attempts: int = ATTEMPTS) -> None:
    """Post a message, again after growing pauses where that may help; only logs when it cannot be delivered."""
    import http.client
    import urllib.request

    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

    stay = urllib.request.HTTPRedirectHandler()  # which would ask the other address, without the message
    stay.redirect_request = lambda *_: None  # type: ignore[method-assign]
    headers = {"Content-Type": "application/json", "User-Agent": f"prompt-upsampler/{__version__}"}
    request = urllib.request.Request(url, json.dumps(message).encode(), headers, method="POST")
    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_exponential_jitter(multiplier=0.5, max=LONGEST_PAUSE_S),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )
    try:
        retrying(lambda: urllib.request.build_opener(stay).open(request, timeout=timeout_s).close())
    except (OSError, http.client.HTTPException, ValueError) as e:
        reason = str(e) if isinstance(e, OSError) else type(e).__name__  # the path may be a secret
        log.get().warning("not_notified", host=urlsplit(url).hostname, reason=reason)


def _may_pass(error: BaseException) -> bool:
    """Whether posting again may help: not where the server understood the message and refused it."""
    import http.client
    from urllib.error import HTTPError

    if isinstance(error, HTTPError):
        return error.code in (408, 425, 429) or error.code >= 500
    return isinstance(error, (OSError, http.client.HTTPException))
