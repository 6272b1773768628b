"""Outputs of a run that goes on: now and then, and for a small part of the time."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from src.run_folder import RunPaths
from src.runs.outcomes import Outcomes, RunJournal
from src.tasks.checkpoints import EVERY_S, QUICK_S, SHARE, Checkpoints
from src.worker.protocol import KEPT, Outcome


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Written:
    """Counts what is written; each takes so long on a clock."""

    def __init__(self, clock: Clock, took_s: float = 0.0) -> None:
        self.clock, self.took_s, self.times = clock, took_s, list[float]()

    def __call__(self, outcomes: Outcomes) -> None:
        self.times.append(self.clock.now_s)
        self.clock.now_s += self.took_s


@pytest.fixture
def journal(tmp_path: Path) -> RunJournal:
    return RunJournal(RunPaths(tmp_path).journal)


def run_for(seconds: int, clock: Clock, checkpoints: Checkpoints, journal: RunJournal) -> None:
    """An answer every ten seconds."""
    while clock.now_s < seconds:
        journal.add([Outcome(str(clock.now_s), KEPT)])
        checkpoints.now_and_then(journal.outcomes)
        clock.now_s += 10


def test_outputs_are_written_every_few_minutes(journal: RunJournal) -> None:
    write = Written(clock := Clock())
    run_for(int(3.5 * EVERY_S), clock, Checkpoints(write, clock=clock), journal)
    assert write.times == [EVERY_S, 2 * EVERY_S, 3 * EVERY_S]


def test_slow_outputs_take_a_small_share(journal: RunJournal) -> None:
    write = Written(clock := Clock(), took_s=60)
    run_for(6_000, clock, Checkpoints(write, clock=clock), journal)
    assert 2 <= len(write.times) <= 6_000 / (60 * SHARE)


def test_nothing_new_is_not_written_again(journal: RunJournal) -> None:
    write = Written(clock := Clock())
    checkpoints = Checkpoints(write, clock=clock)
    for _ in range(3):
        clock.now_s += EVERY_S
        checkpoints.now_and_then(journal.outcomes)
    assert len(write.times) == 1


@pytest.mark.parametrize(("expected_s", "times"), [(QUICK_S, 1), (QUICK_S + 1, 0)])
def test_interruption_writes_only_what_is_quick(journal: RunJournal, expected_s: float, times: int) -> None:
    write = Written(clock := Clock())
    Checkpoints(write, expected_s, clock).at_interruption(journal.outcomes.path)
    assert len(write.times) == times


def test_full_disk_does_not_end_the_run(journal: RunJournal) -> None:
    def full(_: Outcomes) -> None:
        raise OSError(28, "No space left on device", "results.json")

    Checkpoints(full, clock=Clock()).at_interruption(journal.outcomes.path)


def test_failed_write_is_tried_again(journal: RunJournal) -> None:
    """Also at the interruption, with nothing new since."""
    written = list[int]()

    def write(outcomes: Outcomes) -> None:
        written.append(len(outcomes))
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    checkpoints = Checkpoints(write, clock=(clock := Clock()))
    journal.add([Outcome("a", KEPT)])
    clock.now_s += EVERY_S
    checkpoints.now_and_then(journal.outcomes)
    checkpoints.at_interruption(journal.outcomes.path)
    assert len(written) == 2
