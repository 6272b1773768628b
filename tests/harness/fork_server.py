"""Starts the program cheaply: a process that has imported everything forks a child per call.

`python fork_server.py` with the project as its working directory and a Unix socket as its standard input. A request is one
JSON object with four file descriptors: the child's standard input, output and error, and a pipe for how it ended. The
reply is the child's pid. Each child behaves like `python -m src.run` with these arguments, except that PYTHONPATH comes too
late for modules that are imported already.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

LAZY = (  # what tasks import when they need it
    "PIL.Image", "av", "fabric", "jinja2", "matplotlib.backends.backend_agg", "matplotlib.figure", "moviepy", "numpy",
    "paramiko", "rich.console", "rich.live", "rich.progress", "rich.table", "sqlite3", "structlog", "tenacity", "tiktoken",
)  # fmt: skip
WARM = [
    "task=plan",
    'prompts="a, b"',
    "host=ssh",
    "host.port=22",
    "upsample=best_fit",
    "inference=depth",
    "host.docker=[docker,-H]",
]


def preload() -> None:
    """Import what a call may import, except src.run itself; no thread may start here."""
    from hydra import compose, initialize_config_dir
    from hydra.core.plugins import Plugins

    Plugins.instance()  # looks for the plugins that are installed
    for name in LAZY:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(importlib.import_module("src").__path__, "src."):
        if module.name not in (
            "src.api",
            "src.run",
            "src.worker.__main__",
        ):  # the last two are run as programs, one by the first
            importlib.import_module(module.name)
    pages = importlib.import_module("src.reports.pages")
    for page in pages.TEMPLATES.glob("*.html.j2"):
        pages.page_template(page.name)
    with initialize_config_dir(version_base="1.3", config_dir=str(Path.cwd() / "conf")):
        compose("config", WARM)  # the parsers learn their grammar
    gc.collect()
    gc.freeze()  # so that children do not copy every page when they collect


def serve(requests: socket.socket) -> dict[str, Any]:
    """Fork children until the client goes; returns in each child, with its request."""
    ends: dict[int, int] = {}  # pidfd of a child: the pipe for how it ended
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is requests:
                    message, fds, _, _ = socket.recv_fds(requests, 1 << 20, 4)
                    if not message:
                        os._exit(0)
                    if (pid := os.fork()) == 0:
                        selector.close()
                        requests.detach()  # or it would close whatever has its number by then
                        return prepare(json.loads(message), fds)
                    for fd in fds[:3]:
                        os.close(fd)
                    ends[pidfd := os.pidfd_open(pid)] = fds[3]
                    selector.register(pidfd, selectors.EVENT_READ, pid)
                    requests.send(str(pid).encode())
                else:
                    selector.unregister(key.fd)
                    report(key.data, ends.pop(key.fd))
                    os.close(key.fd)


def report(pid: int, pipe: int) -> None:
    """Tell how a child ended, and its CPU seconds with those of its children."""
    _, status, used = os.wait4(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]).encode())
    os.close(pipe)


def prepare(request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
    """Turn a fork of the server into a fresh process: its own session, files, folder, environment and limits."""
    os.setsid()
    for number, fd in enumerate(fds[:3]):
        os.dup2(fd, number)
    os.closerange(3, max(fds) + 64)  # the server's own
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if limit := request["limit_bytes"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=stream.isatty() or stream is sys.stderr)  # type: ignore[union-attr]
    return request


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends a fork without a word until the program listens
    sys.path[0] = os.getcwd()
    preload()
    requests = socket.socket(fileno=os.dup(0))
    requests.send(b"ready")
    request = serve(requests)
    sys.path[0] = request["cwd"]
    if "FAIL_CALL" in os.environ:
        runpy.run_path(str(Path(__file__).with_name("failing") / "sitecustomize.py"))
    sys.argv[1:] = request["arguments"]
    runpy.run_module("src.run", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
