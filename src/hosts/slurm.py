"""A worker as a job of Slurm, in a folder on the disk that the cluster shares.

Slurm queues it, starts it on some node, and after a failed node or a preemption again; whether it runs is Slurm's word, for a
lock on a shared disk may not be seen from another node.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..errors import HostError, LinkLost
from .host import Host, checked, script
from .job_folder import STATES, State
from .launch import Launch
from .mirror import Location

NAME = "upsample-"  # before a job's id: what squeue shows
AWAY = 3  # exit code of a command that Slurm did not answer
FRESH_S = 15  # without a heartbeat, until Slurm is asked
START_S = 1800  # of a job, until its worker writes something; then it counts as silent
STOP_BEFORE_S = 120  # the time limit: then a worker finishes what is in flight
_CHECK = "command -v sbatch squeue scancel >/dev/null && sinfo --noheader >/dev/null"
# The user's jobs, also where their settings or a hidden partition would leave some out.
_LEAVE_OUT = ("STATES", "PARTITION", "ACCOUNT", "QOS", "USERS", "NAMES")
_UNSET = tuple(word for name in _LEAVE_OUT for word in ("-u", f"SQUEUE_{name}"))
SQUEUE = ("env", *_UNSET, "squeue", "--all", "--me", "--noheader")
_JOBS = f'listed() {{ {shlex.join(SQUEUE)} --name="$1" --format="$2"; }}'
# A worker with a fresh heartbeat runs: Slurm need not be asked about it at each poll. Ages are differences of times that the one
# file server gave. A job is queued until its worker has written something since it was submitted, or started again: before that
# come a node that boots, a prolog, an image that is pulled.
_STATE = f"""
{_JOBS}
cd "$1" 2>/dev/null || {{ echo absent; exit; }}
touch ../.clock || {{ echo away; exit; }}
true 2>/dev/null < events.jsonl
age() {{ echo $(($(stat -c %Y ../.clock) - $(stat -c %Y "$1" 2>/dev/null || echo 0))); }}
[ ! -e exit.json ] && [ "$(age events.jsonl)" -lt {FRESH_S} ] && {{ echo running; exit; }}
states=$(listed "$2" %T) || {{ echo away; exit; }}
case " $states" in
  " ") if [ -e cancelled ] && [ ! -e exit.json ]; then echo canceled  # before it was started
       elif [ -e slurm.id ]; then echo ended; else echo absent; fi ;;
  *RUNNING*)
    starts=$({shlex.join(SQUEUE)} --name="$2" --Format=RestartCnt) || {{ echo away; exit; }}
    starts=$(printf %s "$starts" | tr -d ' ')
    known=$(cat slurm.starts 2>/dev/null)
    [ "$known" = "$starts" ] || {{
      echo "$starts" > slurm.starts
      [ "$known$starts" = 0 ] && [ events.jsonl -nt slurm.id ] || touch slurm.id
    }}
    if [ events.jsonl -nt slurm.id ] || [ "$(age slurm.id)" -gt {START_S} ]; then echo running; else echo queued; fi ;;
  *COMPLETING*) echo queued ;;
  *) touch slurm.id; echo queued ;;
esac
"""
_START = f"""
{_JOBS}
cd "$1" && name=$2 command=$3 && shift 3 || exit 1
found=$(listed "$name" %i) || exit {AWAY}
[ -z "$found" ] || exit 0
rm -f exit.json cancelled slurm.starts
sbatch --parsable --requeue --signal=B:TERM@{STOP_BEFORE_S} "$@" --job-name="$name" --chdir="$PWD" --output=worker.log \\
  --open-mode=append --wrap="$command" > slurm.id.part && mv slurm.id.part slurm.id
"""
_STOP = f"""
{_JOBS}
found=$(listed "$1" "%i %T") || exit {AWAY}
printf '%s\\n' "$found" | while read -r id state; do
  case $state in
    ""|COMPLETING) ;;
    RUNNING) if [ "$2/events.jsonl" -nt "$2/slurm.id" ]; then scancel --signal=TERM --batch "$id"; else scancel "$id"; fi ;;
    *) scancel "$id" ;;
  esac
done
"""
_KILL = 'scancel --me --name="$1"'


def job_name(folder: str) -> str:
    return f"{NAME}{folder.rpartition('/')[2]}"


class SlurmRuntime:
    """The worker as the one Slurm job of its name."""

    def __init__(self, host: Host, launch: Launch, location: Location) -> None:
        self.host, self.launch, self.folder = host, launch, location.folder
        self.name = job_name(location.folder)

    def check(self) -> None:
        checked(
            self.host.run(script(_CHECK)), self.host, "there is no Slurm to submit to (sbatch, squeue, scancel, sinfo)"
        )

    def question(self) -> Sequence[str]:
        return script(_STATE, self.folder, self.name)

    def state(self, answer: str) -> State:
        known = [STATES[word] for word in answer.partition("\n")[0].split() if word in STATES]
        if not known:
            raise self._away(answer.strip()[-300:])
        return known[-1]

    def start(self) -> None:
        command = f"exec {shlex.join(self.launch.command(self.folder))}"
        start = script(_START, self.folder, self.name, command, *self.launch.host.sbatch)
        done = self.host.run(start)
        if done.code == AWAY:
            raise self._away(done.message)
        if done.code:
            hint = "host.sbatch has the options of sbatch, as in [--partition=gpu,--gpus=1,--time=4:00:00]"
            raise HostError(f"{self.host.name}: Slurm refused the job: {done.message}", hint=hint)

    def ask_to_stop(self) -> None:
        done = self.host.run(script(_STOP, self.name, self.folder))
        if done.code == AWAY:
            raise self._away(done.message)

    def kill(self) -> None:
        self.host.run(script(_KILL, self.name))

    def _away(self, said: str) -> LinkLost:
        return LinkLost(f"{self.host.name}: Slurm does not answer: {said}")

    def remove(self) -> None: ...
