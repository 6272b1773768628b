#!/usr/bin/env python3
"""The inference runner: lives in a job folder and lets NVIDIA's `transfer.py` make a video for each item.

    python3 infer.py JOB_FOLDER

Standard library and `worker.py` beside it, nothing else; Python 3.10 or later.

The job folder:

    job.json            the command, its groups of items and how patient to be; see `inference.job.job_record`
    batches/NNNNN.jsonl items, one a line, all there before we start
    frames/SHA256.EXT   the videos and control files that items name
    rounds/NNN/         OUT one call of transfer.py: its batch, its controlnet spec, what it wrote
    videos/ID.mp4       OUT the videos, moved here whole
    results.jsonl       OUT one line an item that ended, flushed to disk before the next
    events.jsonl        OUT phases, and a heartbeat with the last line of the log
    server.log          OUT what torchrun and transfer.py printed
    exit.json           OUT how it ended; written last, by rename
    lock                held while a runner lives

transfer.py ends at the first item that raises, and loses those after it. So what is missing is asked in rounds: an item
that ended a round is tried again, and given up after `max_attempts`; the others go on in a round without it.

How transfer.py shows how far it is (nvidia-cosmos/cosmos-transfer1, cosmos_transfer1/diffusion/inference/transfer.py): with
--batch_input_path it makes the folder video_K when it takes up line K, writes video_K/output.mp4 into it when the item is
done, and video_K/prompt.txt after that. An item that NVIDIA's guardrail blocks gets no video, and the next one follows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

if __package__:
    from launchers import worker
else:
    import worker  # type: ignore[import-not-found, no-redef]

PROTOCOL = 1
POLL_S = 0.1
DONE, FAILED = "done", "failed"
MARK = "PROMPT_UPSAMPLER_JOB"  # variable by which processes of this job are known, whoever their parent is
FILE_FIELDS = ("input_control", "control_weight")  # fields of a control that may name a file
# What ends a process group when its standard input closes, that is, when we die: torchrun gets time to end its own.
GUARD = """
cat >/dev/null
kill -s TERM -- "-$0" || exit 0
n=0
while [ $n -lt 100 ] && kill -s 0 -- "-$0" 2>/dev/null; do sleep 0.1; n=$((n + 1)); done
kill -s KILL -- "-$0" 2>/dev/null
"""


class CannotStart(Exception):
    """transfer.py ended before it took up an item; the message holds its last lines."""


class GivenUp(Exception):
    """Item after item fails and none succeeds: something is wrong that is not theirs."""


class Runner:
    """Works off the items of one job folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        self.items = [
            item for batch in sorted((folder / "batches").glob("*.jsonl")) for item in worker.read_records(batch)
        ]
        self.results = worker.Journal(folder / "results.jsonl")
        self.events = worker.Journal(folder / "events.jsonl")
        self.ended = {record["id"] for record in worker.read_records(folder / "results.jsonl")}
        self.attempts: Counter[str] = Counter()
        self.made = 0
        self.stopping = self.timed_out = False
        self._beat = 0.0

    # ------------------------------------------------------------------------------------------------------- outside

    def ask_to_stop(self, *_: object) -> None:
        """Signal handler: the round is broken off; whole videos are kept."""
        self.stopping = True

    def time_is_up(self, *_: object) -> None:
        """Signal handler: the job's time limit is reached."""
        self.timed_out = True
        self.ask_to_stop()

    def run(self) -> dict[str, Any]:
        """Make what is missing; returns what exit.json will say."""
        if self.job["protocol"] != PROTOCOL:
            raise CannotStart(f"{self.folder}: protocol {self.job['protocol']}, this runner speaks {PROTOCOL}")
        (self.folder / "videos").mkdir(exist_ok=True)
        _end_marked(self.folder)  # of a runner that was killed
        for old in sorted((self.folder / "rounds").glob("*/")):
            Round(self, old).take()
        for number, spec in enumerate(self.job["groups"]):
            self._make_group(number, spec)
        missing = [item["id"] for item in self.items if item["id"] not in self.ended]
        if missing:
            code, state = (worker.TIMEOUT, "timeout") if self.timed_out else (worker.CANCELLED, "cancelled")
            return {"code": code, "state": state, "not_started": missing}
        return {"code": 0, "state": "done"}

    def _make_group(self, number: int, spec: dict[str, Any]) -> None:
        fruitless = 0
        while not self.stopping:
            todo = [i for i in self.items if i["group"] == number and i["id"] not in self.ended]
            if not todo:
                return
            before, rounds = self.made, self.folder / "rounds"
            rounds.mkdir(exist_ok=True)
            folder = rounds / f"{len(list(rounds.iterdir())):03d}"
            Round(self, folder).go(todo, spec)
            fruitless = 0 if self.made > before else fruitless + 1
            if fruitless >= self.job["give_up_after"] and not self.stopping:
                raise GivenUp(f"{fruitless} rounds in a row gave no video: {worker.last_words(self.log, 0)}")

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    # ------------------------------------------------------------------------------------------------ writing it down

    def phase(self, name: str, **facts: Any) -> None:
        self.events.append({"event": "phase", "phase": name, "time": round(time.time(), 3), **facts})

    def beat(self) -> None:
        """Now and then: that we live, and the last line of the log."""
        if time.monotonic() - self._beat >= worker.HEARTBEAT_S:
            self._beat = time.monotonic()
            self.events.append(
                {
                    "event": "heartbeat",
                    "time": round(time.time(), 3),
                    "answered": len(self.ended),
                    "said": _last_line(self.log),
                }
            )

    def done(self, item_id: str, video: Path, seconds: float | None) -> None:
        """Move a whole video to its place, and write it down once it is on disk."""
        target = self.folder / "videos" / f"{item_id}.mp4"
        with open(video, "rb") as f:
            sha256 = hashlib.sha256()
            while piece := f.read(1 << 20):
                sha256.update(piece)
            os.fsync(f.fileno())
        size = video.stat().st_size
        os.replace(video, target)
        worker.sync_folder(target.parent)
        self._end(
            item_id, DONE, "", seconds, {"file": f"videos/{target.name}", "sha256": sha256.hexdigest(), "bytes": size}
        )
        self.made += 1

    def failed(self, item_id: str, reason: str, seconds: float | None) -> None:
        self._end(item_id, FAILED, reason, seconds, {})

    def _end(self, item_id: str, state: str, reason: str, seconds: float | None, facts: dict[str, Any]) -> None:
        record = {"id": item_id, "state": state, "reason": reason, "seconds": seconds}
        self.results.append({**record, "attempts": self.attempts[item_id] + (state == DONE), **facts})
        self.ended.add(item_id)


class Round:
    """One call of transfer.py."""

    def __init__(self, runner: Runner, folder: Path) -> None:
        self.runner, self.folder, self.videos = runner, folder, folder / "videos"
        self.began: dict[int, float] = {}  # when each line was taken up, as far as we saw it

    def go(self, items: list[dict[str, Any]], spec: dict[str, Any]) -> None:
        """Call transfer.py for these items and see it to its end.

        Raises CannotStart when it ends before it took one up.
        """
        runner = self.runner
        self._write(items, spec)
        runner.phase("loading", items=len(items))
        log_from = runner.log.stat().st_size if runner.log.exists() else 0
        code = self._call()
        self.take(ended=code == 0)
        if runner.stopping:
            return
        started = [n for n in range(len(items)) if self._of(n).is_dir()]
        said = worker.last_words(runner.log, log_from)
        if code and not started:
            raise CannotStart(f"transfer.py ended with {code} before the first video: {said}")
        open_items = [(n, item["id"]) for n, item in enumerate(items) if item["id"] not in runner.ended]
        culprit = started[-1] if code and started else None
        for n, item_id in open_items:
            if n == culprit:
                runner.attempts[item_id] += 1
                if runner.attempts[item_id] >= runner.job["max_attempts"]:
                    runner.failed(item_id, f"transfer.py ended with {code}: {said}", self._seconds(n))
            elif (not code or (culprit is not None and n < culprit)) and not (self._of(n) / "output.mp4").exists():
                runner.failed(item_id, _why_no_video(runner.log, log_from), self._seconds(n))

    def take(self, *, ended: bool = False) -> None:
        """Take over the videos that are whole: prompt.txt follows a whole video.

        ended: transfer.py has ended well, so all that is there is whole.
        """
        try:
            ids = json.loads((self.folder / "ids.json").read_text())
        except FileNotFoundError:
            return  # killed before it began
        for n, item_id in enumerate(ids):
            folder = self._of(n)
            if item_id in self.runner.ended or not folder.is_dir():
                continue
            self.began.setdefault(n, time.monotonic())
            video = folder / "output.mp4"
            if video.exists() and (ended or (folder / "prompt.txt").exists()):
                self.runner.done(item_id, video, self._seconds(n))

    def _of(self, line: int) -> Path:
        return self.videos / f"video_{line}"

    def _seconds(self, line: int) -> float | None:
        return round(time.monotonic() - self.began[line], 1) if line in self.began else None

    def _write(self, items: list[dict[str, Any]], spec: dict[str, Any]) -> None:
        self.folder.mkdir()
        self.videos.mkdir()
        root = self.runner.folder
        lines = [json.dumps(batch_line(item, root)) + "\n" for item in items]
        (self.folder / "batch.jsonl").write_text("".join(lines), encoding="ascii")
        # transfer.py looks at the spec's own input_video_path before it looks at the batch, and refuses a spec without one.
        whole = {"input_video_path": str(root / items[0]["video"]), **spec}
        (self.folder / "spec.json").write_text(json.dumps(whole, indent=1), encoding="ascii")
        (self.folder / "ids.json").write_text(json.dumps([item["id"] for item in items]))

    def _call(self) -> int:
        """Run the command to its end, or to ours; its exit code."""
        runner, job = self.runner, self.runner.job
        places = {
            "{videos}": str(self.videos),
            "{spec}": str(self.folder / "spec.json"),
            "{batch}": str(self.folder / "batch.jsonl"),
        }
        argv = [places.get(word, word) for word in job["argv"]]
        environment = {**os.environ, **job["env"], MARK: str(runner.folder)}
        with open(runner.log, "ab") as said:
            try:
                child = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd=job["cwd"] or None,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as e:
                raise CannotStart(f"{e.filename or argv[0]}: {e.strerror}") from e
        guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, str(child.pid)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            generating = False
            while child.poll() is None and not runner.stopping:
                self.take()
                if self.began and not generating:
                    generating = True
                    runner.phase("generating")
                runner.beat()
                time.sleep(POLL_S)
            if runner.stopping:
                runner.phase("draining")
                _end_group(child, job["grace_s"])
        finally:
            guard.kill()
            guard.communicate()
            if child.poll() is None:
                _end_group(child, 0.0)
            _end_marked(runner.folder)
        return int(child.returncode)


def batch_line(item: dict[str, Any], root: Path) -> dict[str, Any]:
    """The item as NVIDIA's batch file wants it, with the job folder's files by their absolute paths."""
    line = {"visual_input": str(root / item["video"]), "prompt": item["prompt"]}
    controls = {
        name: {
            field: str(root / value) if field in FILE_FIELDS and str(value).startswith("frames/") else value
            for field, value in control.items()
        }
        for name, control in item["controls"].items()
    }
    return {**line, "control_overrides": controls} if controls else line


def _why_no_video(log: Path, start: int) -> str:
    with open(log, "rb") as f:
        f.seek(start)
        blocked = any(b"Guardrail blocked" in line for line in f)
    return "NVIDIA's guardrail blocked it" if blocked else "transfer.py wrote no video and did not say why"


def _last_line(path: Path) -> str:
    """The last line of a log that says something; a progress bar writes many over each other."""
    try:
        with open(path, "rb") as f:
            f.seek(max(0, f.seek(0, os.SEEK_END) - 4096))
            text = f.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    said = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return said[-1][-300:] if said else ""


def _end_group(child: subprocess.Popen[bytes], patience_s: float) -> None:
    """SIGTERM to the command's process group, and SIGKILL after `patience_s`; torchrun ends its own processes."""
    for sign, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(wait_s)
            return


def _end_marked(folder: Path) -> None:
    """End every process of this job that still lives: torchrun's have sessions of their own and outlive its SIGKILL."""
    mark = f"{MARK}={folder}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)


def run(folder: Path) -> int:
    """Work in a job folder until it is done; returns the exit code, which exit.json has too."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not worker.take_lock(lock):
            print(f"{folder}: another runner holds this job", file=sys.stderr)
            return worker.LOCKED
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        return _work(folder)
    finally:
        os.close(lock)


def _work(folder: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / "exit.json")  # of an earlier attempt; from here on this one speaks
    answered = 0
    try:
        runner = Runner(folder)
        signal.signal(signal.SIGTERM, runner.ask_to_stop)
        signal.signal(signal.SIGALRM, runner.time_is_up)
        signal.setitimer(signal.ITIMER_REAL, runner.job["time_limit_s"])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the controller's Ctrl-C is not meant for us
        try:
            end = runner.run()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            answered = len(runner.ended)
    except (CannotStart, GivenUp) as e:
        end = {"code": worker.LOAD_FAILED, "state": "load_failed", "reason": str(e)}
    except Exception as e:
        end = {"code": 1, "state": "failed", "reason": f"{type(e).__name__}: {e}"}
    worker.write_whole(folder / "exit.json", {**end, "answered": answered})
    return int(end["code"])


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    return run(Path(argv[1]))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
