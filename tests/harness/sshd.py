"""A real sshd on the loopback, with keys of its own, which can be killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from .program import wait_for

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def missing() -> str:
    """Why no sshd can run here; empty when it can."""
    if os.geteuid() != 0:
        return "a real sshd needs root"
    tools = [t for t in ("ssh-keygen", "ss", "setsid", "flock") if shutil.which(t) is None]
    tools += [] if Path(SSHD).exists() else ["sshd"]
    return f"no {', '.join(tools)} here (apt install openssh-server iproute2 util-linux)" if tools else ""


class Sshd:
    """Listens on 127.0.0.1 and lets root log in with `key`; all its files are in `folder`. login: a shell script that runs
    in place of the login shell; more: lines for its configuration."""

    def __init__(self, folder: Path, login: str = "", more: str = "") -> None:
        self.folder = folder
        self.port = _free_port()
        self.key = folder / "client_key"
        self.host_key = folder / "host_key"
        folder.mkdir(parents=True, exist_ok=True)
        for key in (self.key, self.host_key):
            self.new_key(key)
        authorized = folder / "authorized_keys"
        authorized.write_text((folder / "client_key.pub").read_text())
        authorized.chmod(0o600)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.host_key}\nAuthorizedKeysFile {authorized}\n"
            "PermitRootLogin yes\nStrictModes no\nPasswordAuthentication no\nUsePAM no\nPidFile none\n"
            "Subsystem sftp internal-sftp\nMaxStartups 100\n"
            # Debian's bash reads ~/.bashrc for each command over SSH unless this is set, which may take half a second.
            "SetEnv SHLVL=1\n"
            f"{more}"
        )
        if login:
            (folder / "login.sh").write_text(f"#!/bin/sh\n{login}\n")
            (folder / "login.sh").chmod(0o755)
            with open(folder / "sshd_config", "a") as f:
                f.write(f"ForceCommand {folder}/login.sh\n")
        self._process: subprocess.Popen[bytes] | None = None
        self._written_before = 0  # bytes of the log, by older servers
        self.start()

    @staticmethod
    def new_key(path: Path) -> None:
        path.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)

    @property
    def known_hosts_line(self) -> str:
        kind, blob, *_ = self.host_key.with_suffix(".pub").read_text().split()
        return f"[127.0.0.1]:{self.port} {kind} {blob}\n"

    def start(self) -> None:
        """Start the server, again where its port was taken, as by a connection that leaves from there."""
        Path("/run/sshd").mkdir(exist_ok=True)
        wait_for(self._serves)

    def ensure_started(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """Kill the server and all its sessions, as when the link breaks. A child that has just been forked still holds the
        port, so it goes with the group."""
        assert self._process is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pid in _sessions(self.port):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _serves(self) -> bool:
        """Whether the server of `_process` has the port; starts one where it has ended. A connection would not tell: one of
        an older server may take it."""
        log = self.folder / "sshd.log"
        if self._process is None or self._process.poll() is not None:
            command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
            with open(log, "ab") as f:
                self._written_before = f.tell()
                self._process = subprocess.Popen(command, stdout=f, stderr=f, start_new_session=True)
        return b"Server listening on" in log.read_bytes()[self._written_before :]


def _sessions(port: int) -> list[int]:
    """Processes that hold a connection to the port from the server's side."""
    found = subprocess.run(["ss", "-Htnp", f"sport = :{port}"], capture_output=True, text=True, check=False).stdout
    return [int(part.split(",")[0]) for line in found.splitlines() for part in line.split("pid=")[1:]]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
