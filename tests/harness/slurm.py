"""A Slurm of one node: munged, slurmctld and slurmd on this machine, with all their files in one folder."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo", "scontrol")
# No daemon of the system takes part: no accounting, no cgroups, no users but root. The node says that it has 8 cores,
# whatever it has, so that two points fit.
CONFIG = """\
ClusterName=throwaway
SlurmctldHost={node}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName={node} NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=short Nodes={node} Default=YES MaxTime=UNLIMITED State=UP
"""


class Unavailable(Exception):
    """Why no Slurm can be started here; a reason to skip."""


def missing() -> str:
    """Why no Slurm can run here, as far as it shows at once; empty when it can."""
    if os.geteuid() != 0:
        return "a Slurm needs root"
    tools = [t for t in PROGRAMS if shutil.which(t, path=PATH) is None]
    return f"no {', '.join(tools)} here (apt install slurmctld slurmd munge)" if tools else ""


class Slurm:
    """One node, one partition, `short`. Raises Unavailable when a daemon does not come up."""

    partition = "short"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "slurm.conf"
        self.environment = os.environ | {"SLURM_CONF": str(self.config), "PATH": PATH}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._control = ["slurmctld", "-D", "-f", str(self.config)]
        for name in ("state", "spool"):
            (folder / name).mkdir(parents=True)
        node = socket.gethostname().split(".")[0]
        self.config.write_text(CONFIG.format(node=node, ports=_free_ports(2), folder=folder))
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        try:
            self._start(
                [
                    "munged", "--foreground", "--force",  # the folder may be anyone's to enter, as temporary folders are
                    f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid",
                    f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log",
                ]
            )  # fmt: skip
            self._wait(lambda: (folder / "munge.socket").exists(), "munged")
            self._start([*self._control, "-i"])
            self._start(["slurmd", "-D", "-N", node, "-f", str(self.config)])
            self._wait(lambda: self.run("sinfo", "-h", "-o", "%t").strip() == "idle", "the node")
        except BaseException:
            self.stop()
            raise

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints; nothing when it fails."""
        return subprocess.run(
            command, capture_output=True, text=True, env=self.environment, timeout=60, check=False
        ).stdout

    def restart(self, pause_s: float) -> None:
        """Kill slurmctld, and start it again after a pause."""
        self._daemons[1].kill()
        self._daemons[1].wait()
        time.sleep(pause_s)
        self._start(self._control)
        self._daemons[1] = self._daemons.pop()

    def stop(self) -> None:
        """Cancel what still runs, and end the daemons, the last first."""
        if len(self._daemons) == 3:
            self.run("scancel", "--full", "--user=root")
            for _ in range(100):
                if not self.run("squeue", "-h"):
                    break
                time.sleep(0.1)
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _start(self, command: list[str]) -> None:
        with open(self.folder / f"{command[0]}.out", "ab") as out:
            self._daemons.append(
                subprocess.Popen(command, stdout=out, stderr=out, env=self.environment, start_new_session=True)
            )

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline or any(d.poll() is not None for d in self._daemons):
                raise Unavailable(f"{what} did not come up: {self._end_of_logs()}")
            time.sleep(0.05)

    def _end_of_logs(self) -> str:
        said = [path.read_text(errors="replace")[-300:] for path in sorted(self.folder.glob("*.out"))]
        return " | ".join(text.strip() for text in said if text.strip()) or "no logs"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports
