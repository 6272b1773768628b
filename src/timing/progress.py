"""Progress of a run for people: live bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import log
from ..text import printable, remaining

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 5.0
STILL_EVERY_S = 30.0
RESULTS = ("answers", "videos")  # stages that end a run, and may be estimated before they start


class Progress:
    """What a run reports; this one displays nothing.

    phase: its phase in words. step: counts of one named stage, of a total where that is known. took: that a piece of work is
    done, of `amount` hints, bytes or answers, since `began_s` of time.monotonic.
    """

    def phase(self, name: str) -> None: ...
    def step(self, stage: str, done: int, total: int | None, note: str = "") -> None: ...
    def took(self, phase: str, began_s: float, amount: int) -> None: ...


Quiet = Progress  # as it is, where nothing is to be displayed


class Lines(Quiet):
    """A log line per phase, at the end of a stage, and at intervals in between: short ones while the counts change, long ones
    while they do not.

    expected_s: how long the results may take from now on, until their rate is known.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, expected_s: float | None = None) -> None:
        self.clock, self.expected_s, self.began = clock, expected_s, clock()
        self.first: dict[str, tuple[float, int]] = {}  # when a stage first had something done, and how much
        self.logged: dict[str, tuple[float, int]] = {}
        self.now = ""

    def phase(self, name: str) -> None:
        self.now = name
        log.get().info("phase", name=name)

    def step(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        now = self.clock()
        logged_at, logged = self.logged.setdefault(stage, (now, -1))
        if done:
            self.first.setdefault(stage, (now, done))
        patience_s = LINE_EVERY_S if done != logged else STILL_EVERY_S
        if logged == total or (now - logged_at < patience_s and done != total):
            return
        self.logged[stage] = (now, done)
        log.get().info(
            stage.replace(" ", "_"), **self._facts(stage, done, total, now), **({"so_far": note} if note else {})
        )

    def _facts(self, stage: str, done: int, total: int | None, now: float) -> dict[str, str]:
        facts = {"done": f"{done}" if total is None else f"{done}/{total}"}
        if self.now and not done:
            facts["phase"] = self.now
        left_s = still_expected_s(self.expected_s, now - self.began)
        started, at_start = self.first.get(stage, (now, done))
        if done > at_start and now > started:
            rate = (done - at_start) / (now - started)
            facts["rate"] = f"{rate:.1f}/s"
            if total and done < total:
                facts["eta"] = remaining((total - done) / rate)
        elif left_s and stage in RESULTS and done < (total or 0):
            facts["eta"] = f"~{remaining(left_s)}"
        return facts


def still_expected_s(expected_s: float | None, elapsed_s: float) -> float | None:
    """What remains of an estimate; None when there is none, or it has passed."""
    left_s = (expected_s or 0.0) - elapsed_s
    return left_s if left_s > 0 else None


class Bars(Quiet):
    """Live bars with rate and time left; log lines are printed above them, never into them.

    expected_s: as for `Lines`; displayed with a ~.
    """

    def __init__(self, console: Console, expected_s: float | None = None) -> None:
        from rich import progress as rich
        from rich.text import Text

        class Rate(rich.ProgressColumn):
            def render(self, task: rich.Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.1f}/s" if speed else "–", style="progress.data.speed")

        class Remaining(rich.TimeRemainingColumn):
            def render(self, task: rich.Task) -> Text:
                known = task.time_remaining is not None or task.description not in RESULTS
                left_s = None if known else still_expected_s(expected_s, task.elapsed or 0.0)
                if left_s is None:
                    return super().render(task)
                minutes, seconds = divmod(int(left_s), 60)
                return Text(f"~{minutes:02d}:{seconds:02d}", style="progress.remaining")

        self.bars = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description:<16}", markup=False),
            rich.BarColumn(bar_width=32),
            rich.MofNCompleteColumn(),
            Rate(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("left", markup=False),
            Remaining(compact=True),
            rich.TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, int] = {}
        self.note = ""

    def phase(self, name: str) -> None:
        self.note = name

    def step(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        if stage not in self.tasks:
            self.tasks[stage] = int(self.bars.add_task(stage, total=total, note=""))
        self.bars.update(self.tasks[stage], completed=done, total=total, note=printable(note or self.note))  # type: ignore[arg-type]


@contextmanager
def progress_display(mode: str, console: Console, expected_s: float | None = None) -> Iterator[Progress]:
    """The progress display of `console.progress`, active within the block."""
    if mode == "none":
        yield Quiet()
    elif mode == "bars" or (mode == "auto" and console.is_terminal):
        bars = Bars(console, expected_s)
        with bars.bars:
            yield bars
    else:
        yield Lines(expected_s=expected_s)
