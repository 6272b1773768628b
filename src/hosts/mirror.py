"""A job's folder on a host, kept in step with its local copy.

What is staged here is sent there; journals arrive as a byte-exact beginning of the host's. Every step may be done twice.
`RemoteFolder` is a folder on another machine, `SharedFolder` the local one, which a container here has mounted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import log
from ..errors import FolderGone, HostError
from ..files import file_sha256, write_atomic
from ..planning.settings import HostSettings, digest
from ..worker.journal import read_records
from ..worker.protocol import Event, Exit, Staged
from ..worker.records import InvalidRecord, from_line
from ..worker.values import inside
from . import transfer
from .connect import root_on
from .host import Host, checked, reading, script
from .job_folder import BEATS, WITHDRAWN, JobPaths, JobStatus, State, ended, pace

MOST_REREAD = 5  # times that a job's journals are read from their beginning
LIMIT = 4 << 20  # bytes of each journal that one poll brings at most

# Scripts get their values as arguments. $1 is the job's folder.
# Frames are removed only where .prompt-upsampler says that frames/ is ours: it was empty, or all in it was named as ours are.
_MAKE = """
set -e
umask 022
folder=$1
mkdir -p "$1/frames" "$1/batches" "$2/frames" "$2/cache/home"
[ -e "$2/.prompt-upsampler" ] || ls -A "$2/frames" | grep -qvxE '[0-9a-f]{64}[.][a-z0-9]+' || : > "$2/.prompt-upsampler"
shift 2
cd "$folder"
for name; do rm -f "batches/$name"; done
sha256sum job.json worker.pyz batches/*.jsonl 2>/dev/null || true
"""
_SPACE = """
set -e
mkdir -p "$1" && cd "$1" && id -u && id -g && pwd && df -Pk . | awk 'NR == 2 { print $4 }'
"""
_LINK = (
    transfer.ABSENT_IS_GONE
    + """
cd "$2/frames"
have="../jobs/.have-$3"
cat > "$have.names"
: > "$have"
while IFS= read -r name; do
  if [ -e "$1/frames/$name" ]; then echo "${name%.*}  $1/frames/$name" >> "$have"
  elif [ -e "$name" ]; then echo "${name%.*}  $name" >> "$have"
  else echo "$name"; fi
done < "$have.names"
sha256sum --check --quiet "$have" 2>/dev/null | sed -n 's/: FAILED.*//p' | while IFS= read -r path; do
  name=${path##*/}
  rm -f "$name" "$1/frames/$name"
  echo "$name"
done
cut -c67- "$have" | while IFS= read -r name; do
  case $name in */*) ;; *) [ ! -e "$name" ] || echo "$name" ;; esac
done | xargs -r ln -f -t "$1/frames" --
rm -f "$have" "$have.names"
"""
)
# State first, then the journals: what a worker wrote before it ended is never missed. Another controller may remove the
# folder meanwhile: it disappears at once (REMOVE), so what was read while it is still there at the end is whole.
_POLL = """
folder=$1 results=$2 events=$3 limit=$4
shift 4
"$@" | tr '\\n' ' '
echo
cd "$folder" 2>/dev/null || { echo gone; exit 0; }
touch lease 2>/dev/null
for pair in "results.jsonl $results" "events.jsonl $events"; do
  name=${pair% *} at=${pair#* }
  size=$(stat -c %s "$name" 2>/dev/null || echo 0)
  n=$((size - at))
  [ $n -gt $limit ] && n=$limit
  echo "$size"
  [ $n -gt 0 ] && tail -c +$((at + 1)) "$name" | head -c $n
  echo
done
[ -d "$folder" ] || echo gone
"""
_PEEK = """
cd "$1" 2>/dev/null || { echo 0; echo; date +%s; echo; exit 0; }
cat results.jsonl 2>/dev/null | grep -vc '"state":"refused"' || true
grep '"event":"phase"' events.jsonl 2>/dev/null | tail -n 1 | grep . || echo
date +%s
grep '"event":"heartbeat"' events.jsonl 2>/dev/null | tail -n "$2" || true
echo
cat exit.json 2>/dev/null || true
"""
_EXIT = 'cat "$1/exit.json" 2>/dev/null || true'
REMOVE = """
set -e
cd "$2/jobs"
case "$1" in "$2/jobs/"*/*|"$2/jobs/"|*..*) exit 64;; "$2/jobs/"*) ;; *) exit 64;; esac
[ -e "$1/frames" ] || [ ! -e "$1" ] || exit 64
aside="$2/jobs/.removed-${1##*/}.$$"  # two controllers may be at it
[ ! -e "$1" ] || mv -- "$1" "$aside" || [ ! -e "$1" ]
rm -rf -- "$aside" || [ ! -e "$aside" ]
rm -rf -- "$2/jobs/.removed-"* 2>/dev/null || true
if [ -e "$2/.prompt-upsampler" ]; then
  find "$2/frames" -maxdepth 1 -type f -name '[0-9a-f]*.*' -links 1 -mtime +7 | grep -E '/[0-9a-f]{64}[.][a-z0-9]+$' |
    tr '\\n' '\\0' | xargs -0 -r rm -f --
fi
"""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a job is on its host: the folder of all jobs, its own folder, and "uid:gid" that owns both."""

    root: str
    folder: str
    user: str


def locate(host: Host, settings: HostSettings, job: JobPaths) -> Location:
    """Find the folder of a job on its host; creates the root above it, and checks that there is space for one."""
    root = root_on(host, settings)
    with reading(host, checked(host.run(script(_SPACE, root)), host, f"host.root={root} cannot be used")) as output:
        uid, gid, root, free_kib = output.split("\n")[:4]
        free = int(free_kib)
    if free < 1024:
        raise HostError(f"{host.name}: {root}: the disk is full", hint="free some space there, then resume")
    folder = f"{root}/jobs/{job.root.name}" if settings.kind != "local" else str(job.root.resolve())
    return Location(root, folder, f"{uid}:{gid}")


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll brought: what the worker's runtime answered, whether the folder is gone, whether there is more to read."""

    answer: str
    is_gone: bool = False
    has_more: bool = False


class SharedFolder:
    """The local folder itself: the worker reads and writes it directly, so that there is nothing to bring."""

    sent_bytes, is_behind = 0, False

    def __init__(self, host: Host, job: JobPaths, location: Location) -> None:
        self.host, self.job, self.location = host, job, location

    def create(self) -> None:
        cache = script('mkdir -p "$1/cache/home"', self.location.root)
        checked(self.host.run(cache), self.host, "the cache cannot be created")

    def push(self) -> None: ...

    def poll(self, question: Sequence[str]) -> Polled:
        self.job.renew_lease()
        return Polled(answer_of(self.host, question))

    def bring_exit_record(self) -> bool:
        return self.job.exit.exists()

    def fetch(self, sizes: Mapping[str, int]) -> None: ...

    def fetch_logs(self) -> None: ...

    def remove(self) -> None: ...


class RemoteFolder:
    """A folder on another machine, with the local folder as its copy. sent_bytes: of frames that travelled. is_behind: something
    could not be sent, for the folder was gone."""

    def __init__(self, host: Host, job: JobPaths, location: Location) -> None:
        self.host, self.job, self.location = host, job, location
        self.folder = location.folder
        self.sent_bytes = self._reread = 0
        self.is_behind = False
        self._key = digest("controller", str(job.root.resolve()), os.uname().nodename)
        self._pushed: set[str] = set()
        self._events_at = job.events.stat().st_size if job.events.exists() else 0

    def create(self) -> None:
        """Create what is missing of the folder, remove what was given to others meanwhile, and check that its journal is the one
        that is known here."""
        gone = [file for file in self.job.batches.glob(f"*{WITHDRAWN}") if not file.with_suffix("").exists()]
        make = script(_MAKE, self.folder, self.location.root, *(file.stem for file in gone))
        names = self._checked(make, "the job's folder cannot be created")
        for file in gone:
            file.unlink()
        with reading(self.host, names) as sums:
            self._pushed = {file.name for file in self._local(sums)}
        self._check_journal()
        has_events = self.host.run(script('[ -e "$1/events.jsonl" ]', self.folder)).code == 0
        if not has_events and self.job.events.exists():  # a new folder in place of one that was cleaned up
            os.truncate(self.job.events, 0)
            self._events_at = 0

    def _local(self, sums: str) -> Iterator[Path]:
        """The files here that the host has as they are, by what sha256sum says of those there."""
        for line in sums.splitlines():
            sha256, _, name = line.partition("  ")
            file = inside(self.job.root, name)
            if file.is_file() and file_sha256(file) == sha256:
                yield file

    def _check_journal(self) -> None:
        """The local journal must be the beginning of the host's. A host that lost it gets it back; where one of the two is
        damaged, the host's is read again from its beginning: what is known already is known."""
        known = self.job.results.stat().st_size if self.job.results.exists() else 0
        if not known:
            return
        have = self.host.run(script('head -c "$2" "$1/results.jsonl" | sha256sum', self.folder, str(known)))
        if have.out[:64] == file_sha256(self.job.results).encode():
            return
        size = self.host.run(script('stat -c %s "$1/results.jsonl" 2>/dev/null || echo 0', self.folder)).out
        with reading(self.host, size) as text:
            is_there = int(text) > 0
        if is_there:
            self._read_again(self.job.results)
            return
        transfer.send(self.host, {"results.jsonl": self.job.results}, self.folder, self._key)

    def _read_again(self, path: Path) -> None:
        """Forget the copy of a journal that is not the beginning of the host's."""
        there, self._reread = f"{self.host.name}: {self.folder}/{path.name}", self._reread + 1
        if self._reread > MOST_REREAD:
            hint = "it keeps changing there: remove that folder if it is not needed, then resume"
            raise HostError(f"{there} differs from the copy of it here", hint=hint)
        log.get().warning("journal_read_again", file=there)
        os.truncate(path, 0)
        if path == self.job.events:
            self._events_at = 0

    # ------------------------------------------------------------------------------------------------------- there

    def push(self) -> None:
        """Frames first, then the batches that name them, then `closed`. Where another controller has removed the folder, nothing
        is sent: the next poll tells that it is gone, or what is there now is sent it then."""
        base = {path.name: path for path in (self.job.job, self.job.worker) if path.name not in self._pushed}
        batches = [b for b in sorted(self.job.batches.glob("*.jsonl")) if b.name not in self._pushed]
        closing = {"closed": self.job.closed} if self.job.closed.exists() and "closed" not in self._pushed else {}
        self.is_behind = False
        if not (base or batches or closing):
            return
        frames = {
            Path(f).name for batch in batches for item in read_records(batch, Staged, log.left_out) for f in item.frames
        }
        small = {**base, **{f"batches/{b.name}": b for b in batches}}
        try:
            if missing := self._link(frames):
                files = {name: self.job.frames / name for name in missing}
                transfer.send(self.host, files, f"{self.location.root}/frames", self._key, on_bytes=self._count)
                if still := self._link(frames):
                    raise HostError(f"{self.host.name}: {len(still)} frames did not arrive")
            transfer.send(self.host, small, self.folder, self._key)
            transfer.send(self.host, closing, self.folder, self._key)  # after the batches: none comes after it
        except FolderGone as e:
            if e.folder != self.folder:
                raise
            self.is_behind = True
        else:
            self._pushed |= {Path(name).name for name in (*small, *closing)}

    def _link(self, frames: set[str]) -> list[str]:
        """Give the job the frames that the host has; those that it has not."""
        if not frames:
            return []
        names = "".join(f"{name}\n" for name in sorted(frames)).encode()
        done = self.host.run(script(_LINK, self.folder, self.location.root, self._key), [names])
        transfer.check_taken(done, self.host, "frames cannot be linked", self.folder)
        with reading(self.host, done.out) as text:
            missing = text.split()
            if not frames.issuperset(missing):  # it would be sent whatever else it names
                raise ValueError
        return missing

    def _count(self, sent: int) -> None:
        self.sent_bytes += sent

    # ----------------------------------------------------------------------------------------------------- and back

    def poll(self, question: Sequence[str]) -> Polled:
        """Ask how the worker stands, then bring what it wrote until then."""
        at = self.job.results.stat().st_size if self.job.results.exists() else 0
        asked = script(_POLL, self.folder, str(at), str(self._events_at), str(LIMIT), *question)
        done = self.host.run(asked)
        answer, _, rest = checked(done, self.host, "the job cannot be polled").partition(b"\n")
        text = (answer + b"\n" + done.err).decode("utf-8", "replace")  # its first line is the answer
        if rest == b"gone\n" or rest.endswith(b"\ngone\n"):
            return Polled(text, is_gone=True)
        with reading(self.host, rest):
            parts = _journal_parts(rest, at, self._events_at)
        return Polled(text, has_more=self._append(parts))

    def _append(self, parts: Sequence[tuple[int, int, bytes]]) -> bool:
        """Append what is new to the local copies, whole lines only; whether there is more to fetch."""
        more = False
        for path, (size, start, new) in zip((self.job.results, self.job.events), parts, strict=True):
            if size < start:
                self._read_again(path)
                more = True
                continue
            whole = new[: new.rfind(b"\n") + 1]
            if not whole and len(new) == LIMIT:
                raise HostError(
                    f"{self.host.name}: {self.folder}/{path.name}, byte {start}: no line ends within {LIMIT} bytes",
                    hint="the worker's output is damaged",
                )
            if whole:
                with open(path, "ab") as f:
                    f.write(whole)
            if path == self.job.events:
                self._events_at = start + len(whole)
            more = more or (size - start > LIMIT)
        return more

    def bring_exit_record(self) -> bool:
        """Bring exit.json; whether there is one."""
        record = self._checked(script(_EXIT, self.folder), "exit.json cannot be read")
        if record:
            write_atomic(self.job.exit, record)
        return bool(record)

    def fetch(self, sizes: Mapping[str, int]) -> None:
        if sizes:
            transfer.fetch(self.host, self.folder, sizes, self.job.root)

    def fetch_logs(self) -> None:
        """Bring what the worker and the engine printed, the last 2 MiB of each."""
        for path in (self.job.log, self.job.engine_log):
            last = script('tail -c 2097152 "$1" 2>/dev/null || true', f"{self.folder}/{path.name}")
            if printed := self.host.run(last).out:
                path.write_bytes(printed)

    def remove(self) -> None:
        """Remove the folder there, and our frames that no job has used for a week."""
        self._checked(script(REMOVE, self.folder, self.location.root), "the job's folder cannot be removed")

    def _checked(self, argv: Sequence[str], what: str) -> bytes:
        return checked(self.host.run(argv), self.host, what)


Mirror = SharedFolder | RemoteFolder


def _journal_parts(output: bytes, *starts: int) -> list[tuple[int, int, bytes]]:
    """Size, start and new bytes of each journal, from what `_POLL` prints. Raises ValueError for anything else."""
    parts = []
    for start in starts:
        line, _, output = output.partition(b"\n")
        if not line.isdigit():
            raise ValueError
        size = int(line)
        count = min(max(size - start, 0), LIMIT)
        parts.append((size, start, output[:count]))
        output = output[count + 1 :]
    return parts


def peek(host: Host, folder: str, state: State) -> JobStatus:
    """A job by its folder; state: of its worker, which may lack how it ended."""
    output = checked(host.run(script(_PEEK, folder, str(BEATS))), host, "the job cannot be read")
    try:
        answered, event, now, rest = output.split(b"\n", 3)
        beats, _, record = (b"\n" + rest).partition(b"\n\n")
        phase = from_line(Event, event).phase if event else ""
        if state.status == "ended" and state.ending is None:
            state = ended(from_line(Exit, record).code if record.strip() else None)
        last = [from_line(Event, line) for line in beats.splitlines() if line]
        return JobStatus(state, int(answered), phase, *pace(last, float(now)))
    except (InvalidRecord, ValueError) as e:
        raise HostError(f"{host.name}: {folder}: not a valid job folder ({e})") from None


def answer_of(host: Host, question: Sequence[str]) -> str:
    """What a command prints, as a poll brings it: its output as one line, then its errors."""
    done = host.run(question)
    return (done.out.replace(b"\n", b" ") + b"\n" + done.err).decode("utf-8", "replace")
