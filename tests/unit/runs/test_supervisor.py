"""The supervisor: what it starts, what it starts again, when it fails. Jobs and their handles are fakes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from src.errors import AuthError, EngineError, HostError
from src.hosts.job_folder import ABSENT, QUEUED, RUNNING, JobPaths, State, ended
from src.runs import fleet, supervisor
from src.runs.fleet import supervise
from src.runs.supervisor import MAX_DEATHS, Supervisor, failure_reason
from src.runs.tail import MOST_DAMAGED
from src.timing.progress import Quiet
from src.worker.journal import write_json
from src.worker.protocol import NO_ACCESS, UNAVAILABLE, Event, Exit, VideoOutcome
from tests.harness.fake_handle import FakeDriver, FakeHandle, RecordedPhases, Step

DONE, FAILED = Step(ended(0)), Step(ended(None))
START = ["prepare", "push", "start"]
END = ["push", "finish", "close"]
IDLE = Step(events=(Event("phase", 1.0, phase="serving"), Event("heartbeat", 2.0)))


@pytest.fixture
def folder(tmp_path: Path) -> JobPaths:
    job = JobPaths(tmp_path / "run" / "job" / "0123456789abcdef")
    job.root.mkdir(parents=True)
    return job


def run(folder: JobPaths, *steps: Step, wanted: str = "a", **options: bool) -> tuple[FakeDriver, FakeHandle]:
    """Supervise one job to its end; the first step is found before anything is started."""
    handle = FakeHandle(folder, steps, **options)
    driver = FakeDriver(folder, wanted, handle)
    supervise([driver], Quiet(), lambda supervisors: None)
    return driver, handle


# ----------------------------------------------------------------------------------------------------- start and end


def test_absent_worker_is_started_once(folder: JobPaths) -> None:
    driver, handle = run(folder, Step(ABSENT), Step(), Step(results=("a", "b")), DONE, wanted="ab")
    assert handle.calls == [*START, *END]
    assert driver.taken == ["a", "b"]
    assert driver.calls == ["begin", "close"]


def test_running_worker_is_not_started(folder: JobPaths) -> None:
    _, handle = run(folder, Step(results=("a",)), DONE)
    assert handle.calls == ["prepare", "push", *END]


def test_answered_job_is_only_cleaned_up(folder: JobPaths) -> None:
    _, handle = run(folder, Step(ended(0), results=("a",)))
    assert handle.calls == ["prepare", "push", *END]


def test_job_closes_after_its_last_answer(folder: JobPaths) -> None:
    _, handle = run(folder, Step(ABSENT), Step(), Step(results=("a",)), DONE)
    assert handle.closed_at_push == [False, True]
    assert folder.finished.exists()


def test_cleaning_up_waits_for_the_worker(folder: JobPaths) -> None:
    finished: list[bool] = []

    def check() -> None:
        finished.append("finish" in handle.calls)

    handle = FakeHandle(
        folder, [Step(ABSENT), Step(results=("a",)), Step(meanwhile=check), Step(meanwhile=check), DONE]
    )
    supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert finished == [False, False] and handle.calls[-2:] == ["finish", "close"]


def test_answers_of_an_ended_worker_are_taken(folder: JobPaths) -> None:
    driver, handle = run(folder, Step(ABSENT), Step(ended(0), results=("a",)))
    assert driver.taken == ["a"]
    assert handle.calls == [*START, *END]


def test_unfinished_line_waits_for_its_rest(folder: JobPaths) -> None:
    whole = b'{"id":"a","state":"kept"}\n'

    def write(data: bytes) -> Callable[[], object]:
        return lambda: folder.results.write_bytes(data)

    driver, _ = run(folder, Step(ABSENT), Step(meanwhile=write(whole[:9])), Step(meanwhile=write(whole)), DONE)
    assert driver.taken == ["a"]


@pytest.mark.parametrize("wrong", ['{"id":', '{"id":1,"event":2}'], ids=["cut", "types"])
@pytest.mark.parametrize("journal", ["results", "events"])
def test_damaged_line_is_left_out(
    folder: JobPaths, journal: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path: Path = getattr(folder, journal)
    path.write_text('{"id":"a","state":"kept","event":"phase","time":1.0}\n' + f"{wrong}\n")
    driver, _ = run(folder, Step(), Step(results=("a", "b")), DONE, wanted="ab")
    assert set(driver.taken) == {"a", "b"}
    assert f"{path.name}, byte 53: " in capsys.readouterr().out


def test_unread_answer_is_asked_again(folder: JobPaths) -> None:
    folder.results.write_text('{"id":1}\n')
    handle = FakeHandle(folder, [Step(ABSENT), IDLE, Step()])
    handle.on_kill = lambda: setattr(handle, "steps", [FAILED, Step(results=("a",)), DONE])
    driver = FakeDriver(folder, "a", handle)
    supervise([driver], Quiet(), lambda supervisors: None)
    assert driver.taken == ["a"]
    assert handle.calls == [*START, "kill", "start", *END]


def test_answer_that_stays_unread_is_named(folder: JobPaths) -> None:
    folder.results.write_text('{"id":1}\n')
    handle = FakeHandle(folder, [Step(ABSENT), IDLE, Step()])
    handle.on_kill = lambda: setattr(handle, "steps", [FAILED, IDLE])
    with pytest.raises(HostError, match=r"results\.jsonl, byte 0: id: 1 is not a valid str"):
        supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)


def test_unread_video_is_named_at_once(folder: JobPaths) -> None:
    folder.results.write_text('{"id":1}\n')
    driver = FakeDriver(folder, "a", FakeHandle(folder, [Step()]))
    driver.outcome = VideoOutcome  # type: ignore[assignment]
    with pytest.raises(HostError, match=r"results\.jsonl, byte 0: id: 1 is not a valid str"):
        supervise([driver], Quiet(), lambda supervisors: None)


def test_many_damaged_lines_end_the_run(folder: JobPaths) -> None:
    folder.results.write_text("nonsense\n" * (MOST_DAMAGED + 1))
    with pytest.raises(HostError, match=f"so are {MOST_DAMAGED} lines before it"):
        run(folder, Step())


def test_done_without_all_is_given_up(folder: JobPaths) -> None:
    with pytest.raises(HostError, match="ended 4 times without an answer"):
        run(folder, Step(ABSENT), *[Step(ended(0))] * 9)


def test_narrowed_suspects_allow_more_deaths(folder: JobPaths) -> None:
    """Eight items of which one kills the worker are down to one after more deaths than are allowed without a result."""
    found = [Step(ended(None), events=(Event("phase", 0.0, phase="isolating", items=n),)) for n in (8, 4, 2)]
    died = [Step(ended(None))] * 2
    _, handle = run(folder, Step(ABSENT), *died, *found, Step(results=("a",)), DONE)
    assert handle.calls.count("start") == 6


@pytest.mark.parametrize(("code", "kind"), [(UNAVAILABLE, HostError), (NO_ACCESS, AuthError)])
def test_server_that_takes_nothing_is_final(folder: JobPaths, code: int, kind: type[HostError]) -> None:
    with pytest.raises(kind, match="killed") as error:
        run(folder, Step(ABSENT), Step(ended(code)))
    assert "resume" in error.value.hint and type(error.value) is kind


# ---------------------------------------------------------------------------------------------------------- restarts


def test_dead_worker_is_restarted(folder: JobPaths) -> None:
    driver, handle = run(folder, Step(ABSENT), Step(results=("a",)), FAILED, Step(results=("b",)), DONE, wanted="ab")
    assert handle.calls == [*START, "start", *END]
    assert driver.taken == ["a", "b"]


def test_silent_worker_is_ended_and_replaced(folder: JobPaths) -> None:
    handle = FakeHandle(folder, [Step(ABSENT), Step(events=(Event("heartbeat", 1.0),)), Step()])
    handle.silent_s = 0.05
    handle.on_kill = lambda: setattr(handle, "steps", [FAILED, Step(results=("a",)), DONE])
    driver = FakeDriver(folder, "a", handle)
    supervise([driver], Quiet(), lambda supervisors: None)
    assert driver.taken == ["a"]
    assert handle.calls == [*START, "kill", "start", *END]


def test_slow_start_is_no_silence(folder: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = FakeHandle(folder, [Step(ABSENT), Step(), Step(results=("a",)), DONE])
    handle.silent_s = 0.1
    monkeypatch.setattr(handle, "start", lambda: time.sleep(0.2))
    supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert "kill" not in handle.calls


def test_worker_that_freezes_at_its_end_is_ended(folder: JobPaths) -> None:
    handle = FakeHandle(folder, [Step(ABSENT), Step(results=("a",))])
    handle.silent_s = 0.05
    handle.on_kill = lambda: setattr(handle, "steps", [FAILED])
    supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert handle.calls == [*START, "push", "kill", "finish", "close"]


def test_frozen_worker_does_not_outlast_ctrl_c(folder: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "STOP_SILENT_S", 0.05)
    handle = FakeHandle(folder, [Step(ABSENT), Step()], survives_controller=False)
    handle.on_kill = lambda: setattr(handle, "steps", [FAILED])

    def interrupt(supervisors: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise([FakeDriver(folder, "a", handle)], Quiet(), interrupt)
    assert handle.calls[-2:] == ["kill", "close"]


def test_worker_that_cannot_be_ended_is_named(folder: JobPaths) -> None:
    handle = FakeHandle(folder, [Step(ABSENT), Step()])
    handle.silent_s = 0.01
    with pytest.raises(HostError, match="silent and cannot be ended"):
        supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert handle.calls.count("kill") == MAX_DEATHS + 1


def test_endless_deaths_are_given_up(folder: JobPaths) -> None:
    folder.log.write_text("starting\nthe disk is on fire\n")
    handle = FakeHandle(folder, [Step(ABSENT), FAILED])
    with pytest.raises(HostError, match="the worker ended 4 times without an answer: killed: the disk is on fire"):
        supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert handle.calls.count("start") == 1 + MAX_DEATHS
    assert "finish" not in handle.calls and not folder.finished.exists()


def test_answers_between_deaths_restore_patience(folder: JobPaths) -> None:
    wanted = "abcdefgh"
    steps = [step for item in wanted for step in (Step(results=(item,)), FAILED, FAILED)]
    driver, handle = run(folder, Step(ABSENT), *steps, wanted=wanted)
    assert driver.is_done
    assert handle.calls.count("start") > MAX_DEATHS + 1


def test_idle_end_is_no_death(folder: JobPaths) -> None:
    idle = [DONE] * (2 * MAX_DEATHS)  # the hints took longer than the worker lingers
    handle = FakeHandle(folder, [Step(ABSENT), *idle, Step(results=("a",)), DONE])
    driver = FakeDriver(folder, "a", handle)
    driver.is_staged = False
    supervise([driver], Quiet(), lambda supervisors: None)
    assert handle.calls.count("start") == 1 + 2 * MAX_DEATHS


def test_removed_folder_is_created_again(folder: JobPaths) -> None:
    def empty_events() -> None:
        folder.events.write_text("")

    phases = RecordedPhases()
    handle = FakeHandle(
        folder,
        [
            Step(ABSENT),
            Step(events=(Event("phase", 1.0, phase="loading"), Event("phase", 2.0, phase="serving"))),
            Step(ABSENT, meanwhile=empty_events),
            Step(results=("a",), events=(Event("phase", 3.0, phase="loading"),)),
            DONE,
        ],
    )
    supervise([FakeDriver(folder, "a", handle)], phases, lambda supervisors: None)
    assert handle.calls == [*START, "prepare", "push", "start", *END]
    assert phases.phases == ["loading", "serving", "loading", "fetching"]


def test_local_worker_is_not_prepared_again(folder: JobPaths) -> None:
    _, handle = run(folder, Step(ABSENT), Step(ABSENT), Step(results=("a",)), DONE, survives_controller=False)
    assert handle.calls == [*START, "start", *END]


# ----------------------------------------------------------------------------------------------------------- final


def test_load_failure_is_final(folder: JobPaths) -> None:
    write_json(folder.exit, Exit(7, "load_failed", "CUDA out of memory"))
    with pytest.raises(EngineError, match="it cannot be loaded: CUDA out of memory") as error:
        run(folder, Step(ABSENT), Step(ended(7)))
    assert error.value.hint == f"see {folder.log}"


def test_load_failure_without_record_names_no_log(folder: JobPaths) -> None:
    with pytest.raises(EngineError, match=r"killed \(no output\) \(exit code 7\)") as error:
        run(folder, Step(ABSENT), Step(ended(7)))
    assert error.value.hint == ""


def test_time_limit_is_final(folder: JobPaths) -> None:
    with pytest.raises(HostError, match=r"the worker reached a\.limit_s") as error:
        run(folder, Step(ABSENT), Step(ended(124)))
    assert "resume" in error.value.hint


def test_canceled_job_is_not_restarted(folder: JobPaths) -> None:
    handle = FakeHandle(folder, [Step(ABSENT), Step(), Step(ended(143))])
    handle.cancelled = True
    with pytest.raises(HostError, match="the job was cancelled from elsewhere"):
        supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert handle.calls.count("start") == 1


def test_unwanted_sigterm_is_a_restart(folder: JobPaths) -> None:
    _, handle = run(folder, Step(ABSENT), Step(ended(143)), Step(results=("a",)), DONE)  # as when dockerd restarts
    assert handle.calls.count("start") == 2


@pytest.mark.parametrize(
    ("state", "record", "log", "reason"),
    [
        (ended(137, oom_killed=True), None, "", "killed because the container's memory was used up"),
        (ended(1), Exit(1, "failed", "ZeroDivisionError: a bug"), "x", "ZeroDivisionError: a bug"),
        (ended(143), Exit(143, "cancelled"), "x", "cancelled"),
        (ended(None), None, "one\nthe last line\n", "killed: the last line"),
        (ended(137), None, "the last line", "killed (exit code 137): the last line"),
        (ended(None), None, "", "killed (no output)"),
    ],
)
def test_failure_reason_is_the_best_known(
    folder: JobPaths, state: State, record: Exit | None, log: str, reason: str
) -> None:
    if record:
        write_json(folder.exit, record)
    if log:
        folder.log.write_text(log)
    assert failure_reason(folder, state) == reason


# ---------------------------------------------------------------------------------------------------------- progress


def test_phases_before_reattaching_are_not_shown(folder: JobPaths) -> None:
    phases = RecordedPhases()
    old = (Event("phase", 1.0, phase="loading"), Event("phase", 2.0, phase="serving"))
    new = (Event("heartbeat", 3.0, log_line="50%"), Event("phase", 4.0, phase="draining"))
    handle = FakeHandle(folder, [Step(events=old), Step(events=new), Step(results=("a",)), DONE])
    last_lines: list[str] = []
    supervise([FakeDriver(folder, "a", handle)], phases, lambda found: last_lines.append(found[0].last_line))
    assert phases.phases == ["serving", "draining", "fetching"]
    assert set(last_lines) == {"50%"}


def test_worker_of_another_controller_is_not_named(folder: JobPaths) -> None:
    phases = RecordedPhases()
    handle = FakeHandle(folder, [Step(), Step(results=("a",)), DONE])
    supervise([FakeDriver(folder, "a", handle)], phases, lambda supervisors: None)
    assert phases.phases == ["fetching"]


# ------------------------------------------------------------------------------------------------------ several jobs


def several(folder: JobPaths, *scripts: Sequence[Step]) -> list[FakeDriver]:
    drivers = []
    for number, steps in enumerate(scripts):
        job = JobPaths(folder.root.parent / (f"{number}" * 16))
        job.root.mkdir()
        drivers.append(FakeDriver(job, "a", FakeHandle(job, steps, survives_controller=False)))
    return drivers


def handle_of(driver: FakeDriver) -> FakeHandle:
    assert isinstance(driver.handle, FakeHandle)
    return driver.handle


def test_jobs_run_side_by_side(folder: JobPaths) -> None:
    drivers = several(
        folder, [Step(ABSENT), *[Step()] * 4, Step(results=("a",)), DONE], [Step(), Step(results=("a",)), DONE]
    )
    rounds: list[list[bool]] = []

    def record(supervisors: Sequence[Supervisor]) -> None:
        rounds.append([job.folder.finished.exists() for job in supervisors])

    supervise(drivers, Quiet(), record)
    assert [False, True] in rounds and rounds[-1] == [True, True]
    assert all(handle_of(driver).calls[-1] == "close" for driver in drivers)


def test_dead_worker_is_restarted_alone(folder: JobPaths) -> None:
    drivers = several(
        folder, [Step(ABSENT), FAILED, Step(results=("a",)), DONE], [Step(ABSENT), Step(results=("a",)), DONE]
    )
    supervise(drivers, Quiet(), lambda supervisors: None)
    assert [handle_of(driver).calls.count("start") for driver in drivers] == [2, 1]


def test_finished_job_is_not_polled_again(folder: JobPaths) -> None:
    drivers = several(folder, [Step(results=("a",)), DONE], [Step(), *[Step()] * 5, Step(results=("a",)), DONE])
    supervise(drivers, Quiet(), lambda supervisors: None)
    assert handle_of(drivers[0]).polls == 3
    assert RUNNING not in (step.state for step in handle_of(drivers[0]).steps)


def test_job_that_stays_listed_does_not_hold_the_end(
    folder: JobPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster that does not forget a job which was taken out of its queue, as of a dead node."""
    monkeypatch.setattr(supervisor, "QUEUE_END_S", 0.05)
    handle = FakeHandle(folder, [Step(ABSENT), Step(results=("a",)), Step(QUEUED)])
    supervise([FakeDriver(folder, "a", handle)], Quiet(), lambda supervisors: None)
    assert handle.calls.count("ask_to_stop") == 1 and handle.calls[-2:] == ["finish", "close"]
    assert "job_still_listed" in capsys.readouterr().out
