"""Runs in containers, on this machine's Docker or on that of a host behind SSH."""

from __future__ import annotations

from pathlib import Path

from src.planning.plan_file import read_plan
from src.runs.staging import job_id

from .dockerd import Dockerd
from .program import Program, quoted, wait_for
from .remote import Remote, RemoteRun
from .sshd import Sshd


class Docked(Remote):
    """The program and a Docker; behind_ssh: that of the host, and not this machine's."""

    def __init__(self, folder: Path, sshd: Sshd, cache: Path, tokenizer: str, clips: Path, daemon: Dockerd) -> None:
        super().__init__(folder, sshd, cache, tokenizer, clips)
        self.daemon, self.behind_ssh = daemon, False

    @property
    def host(self) -> tuple[str, ...]:
        place = super().host if self.behind_ssh else ("host=local", f"host.root={quoted(self.root)}")
        docker = f"host.docker=[{','.join(quoted(word) for word in self.daemon.command)}]"
        image = ("image=vllm", f"image.reference={self.daemon.image}", "image.shm_size=64m")
        return (*place, docker, "host.gpus=none", *image)

    def container_after(self, run: RemoteRun, count: int = 2) -> tuple[Program, str]:
        """A run after a few answers, while the server keeps the others waiting, and the name of its container."""
        process = run.after_answers(count)
        [name] = wait_for(self.daemon.names)
        return process, name

    def planned_job(self, run: RemoteRun) -> str:
        """Plan a run; the id that its job will have."""
        assert self.program("task=plan", *run.overrides).code == 0
        plan = read_plan(run.folder / "plan.json")
        return job_id(plan)

    def close(self) -> None:
        if not self.daemon.is_up():
            self.daemon.restart()
        super().close()
        self.daemon.remove_all()
