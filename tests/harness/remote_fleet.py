"""Several hosts at once: a real sshd each on the loopback, and one run over all of them."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

from .processes import command_lines
from .program import Ended, Program, journal_ids, journal_lines, logged, plan_of, quoted, results_of, start
from .remote import PYTHON, QUIET
from .sshd import Sshd


class RemoteFleet:
    """Hosts a, b, … with a root of their own each, named by options of `conf/host` in a copy of nothing: by address."""

    def __init__(self, folder: Path, hosts: int, cache: Path, tokenizer: str, clips: Path) -> None:
        self.folder, self.clips, self.root, self.run = folder, clips, folder / "root", folder / "run"
        (folder / "home").mkdir()
        (folder / "desk").mkdir()
        self.sshds = [Sshd(folder / f"sshd{n}") for n in range(hosts)]
        key = folder / "key"
        Sshd.new_key(key)
        for sshd in self.sshds:
            (sshd.folder / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
        known = folder / "known_hosts"
        known.write_text("".join(sshd.known_hosts_line for sshd in self.sshds))
        members = ",".join(f"root@127.0.0.1:{sshd.port}" for sshd in self.sshds)
        self.overrides = (
            f"cache_dir={quoted(cache)}", f"model.tokenizer={quoted(tokenizer)}", *QUIET,
            f"host=[{members}]", f"host.key_file={quoted(key)}", f"host.known_hosts={quoted(known)}",
            f"host.root={quoted(self.root)}", "host.gpus=none", f"worker.python={quoted(PYTHON)}",
            f"hydra.run.dir={quoted(self.run)}",
        )  # fmt: skip
        self._programs: list[Program] = []

    def name(self, host: int) -> str:
        return f"root@127.0.0.1:{self.sshds[host].port}"

    def start(self, *overrides: str) -> Program:
        env = {k: v for k, v in os.environ.items() if k != "SSH_AUTH_SOCK"} | {"HOME": str(self.folder / "home")}
        self._programs.append(started := start(*overrides, cwd=self.folder / "desk", env=env))
        return started

    def start_run(self, count: int, *overrides: str) -> Program:
        prompts = self.folder / "prompts.json"
        clip = str(self.clips / "wide.mp4")
        items = [{"name": f"take {n}", "prompt": f"A boat, take {n}.", "video_path": clip} for n in range(count)]
        prompts.write_text(json.dumps(items))
        return self.start(f"prompts={quoted(prompts)}", *self.overrides, *overrides)

    def resume(self, *overrides: str) -> Ended:
        return self.start(f"resume={quoted(self.run)}", *overrides).ended()

    def task(self, name: str, *overrides: str) -> Ended:
        return self.start(f"task={name}", f"run={quoted(self.run)}", *overrides).ended()

    def ended(self) -> int:
        """How many items have ended in the journal of the run."""
        return len(journal_ids(self.run))

    def logged(self, event: str) -> list[str]:
        return [line.get("host", "") for line in logged(self.run, event)]

    def shares(self) -> list[int]:
        """How many answers each job wrote down."""
        return sorted(len(journal_lines(file)) for file in self.run.glob("job/*/results.jsonl"))

    def workers(self) -> dict[int, str]:
        """The running workers with the names of their jobs."""
        root = os.fsencode(self.root)
        return {
            pid: Path(os.fsdecode(words[1])).parent.name
            for pid, words in command_lines()
            if len(words) > 1 and words[1].startswith(root) and words[1].endswith(b"/worker.pyz")
        }

    def assert_whole(self, end: Ended, *, most_twice: int = 0) -> None:
        """Every item ended well, each once in the journal; most_twice: so many were asked twice at most."""
        assert end.code == 0, end.err
        assert "Traceback" not in end.err
        ids = [item["id"] for item in plan_of(self.run)["items"]]
        assert {row["state"] for row in results_of(self.run)} == {"upsampled"}
        assert Counter(journal_ids(self.run)) == Counter(ids)
        written = [r["id"] for file in self.run.glob("job/*/results.jsonl") for r in journal_lines(file)]
        twice = len(written) - len(set(written))
        assert twice <= most_twice, twice

    def close(self) -> None:
        for program in self._programs:
            program.kill()
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)
        for sshd in self.sshds:
            sshd.kill()
