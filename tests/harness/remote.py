"""Runs on another host: a real sshd on the loopback, a fake server that answers, and the program that uses both."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .openai_server import FakeOpenAI, text_of
from .processes import command_lines
from .program import (
    Ended,
    Program,
    journal_ids,
    journal_lines,
    loads_of,
    logged,
    plan_of,
    quoted,
    results_of,
    start,
    wait_for,
)  # fmt: skip
from .proxy import Proxy
from .sshd import Sshd

CLIPS = ("wide", "other", "hd", "portrait", "square")
PYTHON = sys.executable
QUIET = ("hints.video=false", "output.report=false", "console.progress=lines")


def take(number: int, clips: Path) -> dict[str, str]:
    """One prompt of many, over one of a few clips."""
    clip = clips / f"{CLIPS[number % len(CLIPS)]}.mp4"
    return {"name": f"take {number}", "prompt": f"A boat, take {number}.", "video_path": str(clip)}


class Remote:
    """A host and the program on this machine; every file of both is in `folder`."""

    def __init__(self, folder: Path, sshd: Sshd, cache: Path, tokenizer: str, clips: Path) -> None:
        self.folder, self.clips, self.root = folder, clips, folder / "root"
        self.common = [f"cache_dir={quoted(cache)}", f"model.tokenizer={quoted(tokenizer)}", *QUIET]
        self.home, self.desk = folder / "home", folder / "desk"  # without ssh settings; where the program is started
        self.home.mkdir()
        self.desk.mkdir()
        self.known_hosts = folder / "known_hosts"
        self.sshd, self.port = sshd, sshd.port
        self.trust(self.port)
        self.server = FakeOpenAI()
        self.server.count = self._prompt_tokens
        self._tokens: dict[str, int] = {}
        self._proxies: list[Proxy] = []
        self._programs: list[Program] = []

    def _prompt_tokens(self, body: dict[str, Any]) -> int:
        """Tokens of a request, as the plan of any of the runs counts them."""
        text = text_of(body)
        if text not in self._tokens:
            plans = [json.loads(plan.read_text()) for plan in self.folder.glob("*/plan.json")]
            self._tokens = {item["text"]: item["tokens"]["prompt"] for plan in plans for item in plan["items"]}
        return self._tokens[text] if text != "Hello." else 1  # whether it answers at all

    def trust(self, port: int) -> None:
        line = self.sshd.known_hosts_line.replace(f":{self.sshd.port} ", f":{port} ")
        self.known_hosts.write_text((self.known_hosts.read_text() if self.known_hosts.exists() else "") + line)

    def proxied(self, delay_s: float = 0.0) -> Proxy:
        """Put a proxy between the program and the host."""
        proxy = Proxy(self.sshd.port, delay_s)
        self._proxies.append(proxy)
        self.port = proxy.port
        self.trust(proxy.port)
        return proxy

    @property
    def host(self) -> tuple[str, ...]:
        fields = {
            "address": "127.0.0.1", "user": "root", "port": self.port, "key_file": self.sshd.key,
            "known_hosts": self.known_hosts, "root": self.root,
        }  # fmt: skip
        return ("host=ssh", *(f"host.{name}={quoted(str(value))}" for name, value in fields.items()))

    @property
    def engine(self) -> tuple[str, ...]:
        return ("engine=endpoint", f"engine.base_url={self.server.url}", "engine.in_flight=3", "engine.grace_s=1")

    def start(
        self, *overrides: str, limit_bytes: int | None = None, more_env: Mapping[str, str] = MappingProxyType({})
    ) -> Program:
        env = {k: v for k, v in os.environ.items() if k != "SSH_AUTH_SOCK"} | {"HOME": str(self.home), **more_env}
        self._programs.append(started := start(*overrides, cwd=self.desk, env=env, limit_bytes=limit_bytes))
        return started

    def program(self, *overrides: str) -> Ended:
        return self.start(*overrides).ended()

    def allow(self, more: int) -> None:
        """Let the server answer so many more requests, and keep those after them waiting."""
        self.server.allow(len(self.server.asked) + more)

    def jobs(self) -> list[Path]:
        """The job folders on the host."""
        return [p for p in (self.root / "jobs").glob("*") if re.fullmatch("[0-9a-f]{16}", p.name)]

    def frames(self) -> dict[str, tuple[int, int]]:
        """The frames that the host keeps, with what changes when one is written again."""
        found = ((p.name, p.stat()) for p in (self.root / "frames").glob("*.png"))
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found}

    def answered(self) -> list[str]:
        """Ids that the workers on the host wrote down."""
        return [r["id"] for job in self.jobs() for r in journal_lines(job / "results.jsonl")]

    def workers(self) -> list[int]:
        """Every worker process below the host's root."""
        root = os.fsencode(self.root)
        return [
            pid for pid, words in command_lines()
            if any(w.startswith(root) and w.endswith(b"/worker.pyz") for w in words[:2])
        ]  # fmt: skip

    def close(self) -> None:
        for started in self._programs:
            started.kill()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        for proxy in self._proxies:
            proxy.close()
        self.server.close()
        self.sshd.ensure_started()


class RemoteRun:
    """A run of some of the takes: its folder here, and how it went."""

    def __init__(
        self, remote: Remote, count: int = 6, *overrides: str, first: int = 0, name: str = "run", offline: bool = False
    ) -> None:
        self.remote, self.folder = remote, remote.folder / name
        prompts = remote.folder / f"{name}.json"
        prompts.write_text(json.dumps([take(n, remote.clips) for n in range(first, first + count)]))
        engine = ("engine=offline", f"worker.python={quoted(PYTHON)}") if offline else remote.engine
        self.overrides = (
            f"prompts={quoted(prompts)}", f"hydra.run.dir={quoted(self.folder)}", *engine, *remote.common, *remote.host,
            *overrides,
        )  # fmt: skip

    def start(self) -> Program:
        return self.remote.start(*self.overrides)

    def to_its_end(self) -> Ended:
        return self.start().ended()

    def after_answers(self, count: int = 3) -> Program:
        """Start it; the server keeps requests waiting once so many answers are in the journal here."""
        self.remote.allow(count)
        process = self.start()
        wait_for(lambda: len(self.ids()) >= count)
        return process

    def detached(self, count: int = 3) -> Ended:
        """Start it, and press Ctrl-C after a few answers."""
        process = self.after_answers(count)
        process.interrupt()
        return process.ended()

    def resumed(self) -> Ended:
        return self.remote.program(f"resume={quoted(self.folder)}")

    def task(self, name: str) -> Ended:
        return self.remote.program(f"task={name}", f"run={quoted(self.folder)}")

    @property
    def items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = plan_of(self.folder)["items"]
        return items

    def ids(self) -> list[str]:
        return journal_ids(self.folder)

    def logged(self, event: str) -> list[dict[str, Any]]:
        return logged(self.folder, event)

    def loads(self) -> int:
        return loads_of(self.folder)

    def assert_whole(self, end: Ended, *, asked_once: bool = True) -> None:
        """It ended well: every item answered, each once in the journal, and each asked once."""
        assert end.code == 0, end.err
        assert "Traceback" not in end.err
        ids = [item["id"] for item in self.items]
        rows = results_of(self.folder)
        assert [row["id"] for row in rows] == ids
        assert {row["state"] for row in rows} == {"upsampled"}
        assert Counter(self.ids()) == Counter(ids)
        if asked_once:
            copies = [r["id"] for file in self.folder.glob("job/*/results.jsonl") for r in journal_lines(file)]
            assert Counter(copies) == Counter(ids)
            asked = self.remote.server.times_asked()
            assert set(asked.values()) <= {1}, asked


def is_held(job: Path) -> bool:
    """Whether a worker runs in a job folder."""
    try:
        with open(job / "lock") as f:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
