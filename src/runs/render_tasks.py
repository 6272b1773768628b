"""Hints rendered by an array of CPU tasks of Slurm (`host.render_tasks`), where the controller, its cache and outputs/ are on the
disk that the cluster shares: what a task has rendered, the controller finds in the cache.

`python -m src.runs.render_tasks RUN N COUNT` is the N-th of COUNT tasks. It may be killed and started again at any time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import log
from ..errors import HintError, HostError, VideoError
from ..hosts.slurm import NAME, SQUEUE
from ..media.hint import hint_key
from ..planning.plan_file import read_plan
from ..planning.settings import HostSettings, Settings, digest
from ..run_folder import RunPaths
from .staging import hint_cache, rendered

POLL_S = 0.2
ASK_S = 5.0  # between two questions to Slurm
MOST_MISSES = 60  # questions in a row that it does not answer, until hints are rendered here


class RenderTasks:
    """The tasks of a run, which were submitted before or are now."""

    def __init__(self, run: Path, host: HostSettings) -> None:
        self._host, self._run, self._name = host, run, _name_of(run)
        self._lock, self._asked_at, self._is_over, self._misses = threading.Lock(), time.monotonic(), False, 0
        if not self._listed():
            self._submit()

    def wait_for(self, entry: Path, is_stopped: Callable[[], bool]) -> None:
        """Return once a cache entry is there, or no task will make it."""
        failed = _failed(self._run) / entry.name
        while not (entry.exists() or failed.exists() or is_stopped() or self._ended()):
            time.sleep(POLL_S)

    def _submit(self) -> None:
        shutil.rmtree(_failed(self._run), ignore_errors=True)  # of earlier tasks: what was wrong may be repaired
        package, _, _ = __name__.rpartition(".runs.")
        here = f"PYTHONPATH={Path(__file__).parents[2]}"
        module = ["env", here, sys.executable, "-m", f"{package}.runs.render_tasks"]
        count = str(self._host.render_tasks)
        render = f'{shlex.join([*module, str(self._run.absolute())])} "$SLURM_ARRAY_TASK_ID" {count}'
        command = f"cd {shlex.quote(os.getcwd())} && exec {render}"  # the plan's paths are as seen from here
        self._asked(
            "sbatch", f"--job-name={self._name}", f"--array=0-{int(count) - 1}", f"--chdir={self._run.absolute()}",
            "--output=render-%a.log", "--open-mode=append", "--requeue", *self._host.render_sbatch, f"--wrap={command}",
        )  # fmt: skip
        log.get().info("render_tasks_submitted", name=self._name, tasks=self._host.render_tasks)

    def _listed(self) -> bool:
        return bool(self._asked(*SQUEUE, f"--name={self._name}", "--format=%i").strip())

    def _ended(self) -> bool:
        with self._lock:
            if not self._is_over and time.monotonic() - self._asked_at > ASK_S:
                self._asked_at = time.monotonic()
                try:
                    self._is_over, self._misses = not self._listed(), 0
                except HostError as e:  # asked again: it may be starting
                    self._misses += 1
                    self._is_over = self._misses == MOST_MISSES
                    if self._misses == 1:
                        log.get().warning("slurm_does_not_answer", reason=e.message)
                if self._is_over:
                    log.get().info(
                        "render_tasks_ended", name=self._name, note="hints that are missing are rendered here"
                    )
            return self._is_over

    def _asked(self, *words: str) -> str:
        return _ran(words, self._host.command_timeout_s)


def renderer(settings: Settings) -> HostSettings | None:
    """The host, or the member of a fleet, whose tasks render; None where hints are rendered here."""
    return next((host for host in settings.members or (settings.host,) if host.render_tasks), None)


def cancel(run: Path, host: HostSettings) -> None:
    """End the tasks of a run."""
    _ran(("scancel", "--me", f"--name={_name_of(run)}"), host.command_timeout_s)


def _failed(run: Path) -> Path:
    """Where tasks leave a file for each hint that cannot be rendered: nobody waits for it."""
    return run / "render-failed"


def _name_of(run: Path) -> str:
    return f"{NAME}render-{digest(str(run.resolve()))}"


def _ran(words: Sequence[str], timeout_s: float) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=timeout_s).stdout
    except (OSError, subprocess.SubprocessError) as e:
        reason = (getattr(e, "stderr", "") or str(e)).strip()
        program = next(word for word in words if word in ("squeue", "sbatch", "scancel"))
        raise HostError(f"{program}: {reason}", hint="host.render_tasks=0 renders without Slurm") from e


def main(run: Path, number: int, count: int) -> None:
    """Render each COUNT-th hint of a plan that the cache does not have; what cannot be rendered, the controller finds out too."""
    plan = read_plan(RunPaths(run).plan)
    items = (plan.find(item_id) for batch in plan.batches for item_id in batch)
    hints = {hint_key(i.video, i.hint): (i.video, i.hint) for i in items if i.video and i.hint}
    for key, (video, hint) in list(hints.items())[number::count]:
        if (hint_cache(plan.settings) / key).exists():
            continue
        try:
            rendered(video, hint, plan.settings)
            print(f"{key} {video.path}", flush=True)
        except (VideoError, HintError) as e:
            print(e.message, flush=True)
            _failed(run).mkdir(exist_ok=True)
            (_failed(run) / key).touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
