"""Runs of several machines: hosts with a link of their own each, and a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .program import Program, quoted, wait_for
from .remote import Remote
from .slurm import Slurm
from .sshd import Sshd


class Linked(Remote):
    """Three hosts, each behind a proxy of its own to the same sshd."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        for _ in range(3):
            self.proxied()

    @property
    def host(self) -> tuple[str, ...]:
        members = ",".join(f"root@127.0.0.1:{proxy.port}" for proxy in self._proxies)
        own = (f"host.key_file={quoted(self.sshd.key)}", f"host.known_hosts={quoted(self.known_hosts)}")
        return (f"host=[{members}]", *own, f"host.root={quoted(self.root)}", "host.workers=1")


class Clustered(Remote):
    """Workers as jobs of a Slurm."""

    def __init__(self, folder: Path, sshd: Sshd, cache: Path, tokenizer: str, clips: Path, slurm: Slurm) -> None:
        super().__init__(folder, sshd, cache, tokenizer, clips)
        self.slurm = slurm

    @property
    def host(self) -> tuple[str, ...]:
        return ("host=slurm", f"host.root={quoted(self.root)}")

    def start(self, *overrides: str, more_env: Any = None, **options: Any) -> Program:
        cluster = {name: self.slurm.environment[name] for name in ("SLURM_CONF", "PATH")}
        return super().start(*overrides, more_env={**cluster, **(more_env or {})}, **options)

    def jobs_in_queue(self) -> list[str]:
        return self.slurm.run("squeue", "-h", "-o", "%i").split()

    def close(self) -> None:
        super().close()
        self.slurm.run("scancel", "--full", "--user=root")
        wait_for(lambda: not self.jobs_in_queue())
