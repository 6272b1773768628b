"""A worker that something else starts (Kubernetes, sbatch, a terminal) in a folder on a disk that all share.

Nothing here reaches its process: its heartbeat tells that it runs, the mark `cancelled` in its folder ends it
(`worker.lifecycle`), and launchers/pool_worker.sh starts it once its folder is there.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .. import log
from ..errors import LinkLost
from .host import Host, checked, script
from .job_folder import STATES, State
from .launch import Launch
from .mirror import Location

LOST_S = 30.0  # without a heartbeat, until others get what a worker holds
# Ages are differences of times that the one file server gave; opening a file asks it for the file's time again.
_STATE = """
cd "$1" 2>/dev/null || { echo absent; exit; }
[ ! -e exit.json ] || { echo ended; exit; }
touch ../.clock || { echo away; exit; }
true 2>/dev/null < events.jsonl
beat=$(stat -c %Y events.jsonl 2>/dev/null || echo 0)
if [ $(($(stat -c %Y ../.clock) - beat)) -lt "$2" ]; then echo running
elif [ -e cancelled ] || [ -e "../../ended/${1##*/}" ]; then echo canceled
else echo queued; fi
"""
_START = 'rm -f "$1/exit.json" "$1/cancelled" "$2/ended/${1##*/}"'
# A worker that would start from now on finds this in place of the folder.
_REMOVE = 'mkdir -p "$2/ended" && find "$2/ended" -type f -mtime +90 -delete && : > "$2/ended/${1##*/}"'


class PoolRuntime:
    """The worker of a folder, whoever started it and wherever it runs."""

    def __init__(self, host: Host, launch: Launch, location: Location) -> None:
        self.host, self.launch, self.location = host, launch, location
        self.lost_s = min(launch.host.silent_s or LOST_S, LOST_S)

    def check(self) -> None: ...

    def question(self) -> Sequence[str]:
        return script(_STATE, self.location.folder, f"{max(self.lost_s, 1):.0f}")

    def state(self, answer: str) -> State:
        if (word := (answer.split() or [""])[0]) not in STATES:
            raise LinkLost(f"{self.host.name}: the shared disk does not answer: {answer.strip()[-300:]}")
        return STATES[word]

    def start(self) -> None:
        self._run(_START, "the job cannot be started")
        command = shlex.join(self.launch.command(self.location.folder))
        log.get().info("worker_awaited", job=self.location.folder.rpartition("/")[2], command=command)

    def ask_to_stop(self) -> None:
        """One that runs sees the mark in its folder; one that would start later, this."""
        self.remove()

    def kill(self) -> None: ...  # nothing here can, and its items are for others

    def remove(self) -> None:
        self._run(_REMOVE, "the end of the job cannot be marked")

    def _run(self, text: str, what: str) -> None:
        checked(self.host.run(script(text, self.location.folder, self.location.root)), self.host, what)
