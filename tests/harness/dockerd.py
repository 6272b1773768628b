"""A Docker daemon with all its files in one folder, and an image that has Python; it can be killed and started again
without touching any other daemon."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .processes import children_of, command_lines, wait_for_build

IMAGE = "upsampler-test"
# What mounted interpreters link to, a compiler for torch, and what engine=offline imports.
PACKAGES = (
    "python3", "libsqlite3-0", "libssl3", "libffi8", "libbz2-1.0", "liblzma5", "libreadline8", "libncursesw6", "libgomp1",
    "libnuma1", "g++", "python3-numpy", "python3-pil",
)  # fmt: skip


class Unavailable(Exception):
    """Why no Docker daemon can be started here; a reason to skip."""


def missing() -> str:
    """Why no dockerd can run here, as far as it shows at once; empty when it can."""
    if os.geteuid() != 0:
        return "a dockerd needs root"
    tools = [t for t in ("dockerd", "docker", "debootstrap", "tar") if shutil.which(t) is None]
    return f"no {', '.join(tools)} here (apt install docker.io debootstrap)" if tools else ""


class Dockerd:
    """Listens on a socket in `folder`. Raises Unavailable when the daemon does not start or there is no image."""

    image = IMAGE

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "s.sock"
        self.command = ("docker", "-H", f"unix://{self.socket}")
        folder.mkdir(parents=True, exist_ok=True)
        self._storage = "overlay2"
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start_first()
            self._import_image()
        except BaseException:
            self.stop()
            raise

    # ------------------------------------------------------------------------------------------------- the daemon

    def start(self, *options: str) -> None:
        """Start the daemon and wait until it answers; `--live-restore` keeps the containers of the one before."""
        (self.folder / "pid").unlink(missing_ok=True)
        with open(self.folder / "dockerd.log", "ab") as log:
            self._process = subprocess.Popen(
                [
                    "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none",
                    f"--storage-driver={self._storage}", "--data-root", str(self.folder / "data"),
                    "--exec-root", str(self.folder / "exec"), "-p", str(self.folder / "pid"),
                    "-H", f"unix://{self.socket}", *options,
                ],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise Unavailable(f"dockerd does not start: {self._end_of_log()}")
            time.sleep(0.05)

    def restart(self, *options: str) -> None:
        """Kill it and start it again, as after a crash."""
        self.kill()
        self.start(*options)

    def kill(self) -> None:
        """Kill the daemon; its containers keep running for now."""
        if self._process is not None:
            helpers = self._processes("containerd --config")  # they end with it, but not in the same instant
            self._process.kill()
            self._process.wait()
            for pid in helpers:
                _wait_for_end(pid)

    def end(self) -> None:
        """Ask the daemon to end, as `systemctl stop` does; it stops its containers first."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def is_up(self) -> bool:
        return self.attempt("version").returncode == 0

    def stop(self) -> None:
        """End containers and daemon, and free their disk."""
        if self._process is not None and self._process.poll() is None:
            if self.is_up():
                self.remove_all()
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.kill()
        for pid in self._processes("containerd"):  # of containers, where the daemon did not live to end them
            for child in children_of(pid):
                os.kill(child, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            _wait_for_end(pid)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        shutil.rmtree(self.folder / "exec", ignore_errors=True)

    def _start_first(self) -> None:
        try:
            self.start()
        except Unavailable:
            self._storage = "vfs"  # slow, but it needs nothing of the file system
            shutil.rmtree(self.folder / "data", ignore_errors=True)
            self.start()

    def _processes(self, command: str) -> list[int]:
        """Processes of this daemon with such a command."""
        lines = ((pid, b" ".join(words).decode(errors="replace")) for pid, words in command_lines())
        own = f" {self.folder}/"
        return [pid for pid, line in lines if command in line.split(str(self.folder))[0] and own in line]

    def _end_of_log(self) -> str:
        log = self.folder / "dockerd.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "no log"

    # ------------------------------------------------------------------------------------------------- what it has

    def run(self, *arguments: str) -> str:
        """What a docker command prints; fails when it fails."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def names(self) -> list[str]:
        """Names of all containers, running or not."""
        return sorted(self.run("ps", "--all", "--format", "{{.Names}}").split())

    def inspect(self, name: str) -> dict[str, Any]:
        [found] = json.loads(self.run("inspect", "--type", "container", name))
        return dict(found)

    def running(self, name: str) -> bool:
        return self.attempt("inspect", "--format", "{{.State.Running}}", name).stdout.strip() == "true"

    def remove_all(self) -> None:
        if ids := self.run("ps", "--all", "--quiet").split():
            self.run("rm", "--force", *ids)

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, timeout=120, check=False)

    # -------------------------------------------------------------------------------------------------- the image

    def _import_image(self) -> None:
        kept = os.environ.get("UPSAMPLER_TEST_CACHE", "")
        wait_for_build("IMAGE_BUILD_PID")
        tar = Path(kept or self.folder) / f"{IMAGE}.tar"
        try:
            if not tar.exists():
                _make_image(tar, self.folder / "system")
            self.run("import", str(tar), IMAGE)
        finally:
            if not kept:
                tar.unlink(missing_ok=True)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.02)


def _make_image(tar: Path, system: Path) -> None:
    """A small Debian as a tar file, from the mirrors of Debian."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    aside = tar.with_suffix(f".{os.getpid()}")
    try:
        for command in (
            ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", str(system)],
            ["tar", "-C", str(system), "-cf", str(aside), "."],
        ):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
            except subprocess.TimeoutExpired:
                raise Unavailable(f"{command[0]} takes too long") from None
            if done.returncode:
                raise Unavailable(f"{command[0]} cannot make an image: {(done.stderr or done.stdout)[-300:]}")
        aside.replace(tar)
    finally:
        aside.unlink(missing_ok=True)
        shutil.rmtree(system, ignore_errors=True)


if __name__ == "__main__":
    _make_image(Path(sys.argv[1]) / f"{IMAGE}.tar", Path(sys.argv[1]) / "system")
