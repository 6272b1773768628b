"""Several jobs side by side: who is left out, who is tried again, when the run ends. Jobs and their handles are fakes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from src.errors import AuthError, EngineError, HostError, LinkLost
from src.hosts.job_folder import ABSENT, JobPaths, State, ended
from src.runs import fleet
from src.runs.fleet import _detach_or_stop, supervise
from src.runs.supervisor import RunCancelled, Supervisor
from src.timing.progress import Quiet
from src.worker.protocol import CANCELLED, LOAD_FAILED, TIMEOUT
from tests.harness.fake_handle import FakeDriver, FakeHandle, Step

START = Step(ABSENT)
ANSWER = Step(results=("a",))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "RETRY_S", 0.01)


class Handle(FakeHandle):
    """Its worker runs on after the last step, and ends once its job is closed."""

    def poll(self) -> State:
        return ended(0) if self.job.closed.exists() and len(self.steps) == 1 else super().poll()


class Members:
    """Two jobs that want the same item."""

    def __init__(self, folder: Path) -> None:
        self.taken: list[str] = []
        self.handles, self.drivers = [], []
        for number in range(2):
            job = JobPaths(folder / "job" / (f"{number}" * 16))
            job.root.mkdir(parents=True)
            self.handles.append(Handle(job, [START], survives_controller=False))
            self.drivers.append(FakeDriver(job, "a", self.handles[-1]))
            self.drivers[-1].taken = self.taken

    def supervise(self, *scripts: list[Step], patience_s: float = 0.0) -> None:
        for handle, steps in zip(self.handles, scripts, strict=True):
            handle.steps = steps
        supervise(self.drivers, Quiet(), lambda supervisors: None, patience_s)


@pytest.fixture
def members(tmp_path: Path) -> Members:
    return Members(tmp_path)


def raises(error: Exception) -> Step:
    def fail() -> None:
        raise error

    return Step(meanwhile=fail)


LOST = raises(LinkLost("b: gone"))


def test_lost_host_gives_back_and_returns(members: Members) -> None:
    members.supervise([START, *[Step()] * 60, ANSWER], [START, Step(), LOST, Step()])
    assert members.drivers[1].calls.count("give_back") == 1
    assert members.drivers[1].calls.count("begin") == 2
    assert members.handles[1].calls[-2:] == ["finish", "close"]


@pytest.mark.parametrize(
    "error", [raises(AuthError("b: key has CHANGED")), Step(ended(TIMEOUT))], ids=["key", "time limit"]
)
def test_final_errors_are_not_tried_again(members: Members, error: Step) -> None:
    members.supervise([START, *[Step()] * 60, ANSWER], [START, error, Step()])
    assert members.drivers[1].calls.count("begin") == 1


def test_engine_that_loads_elsewhere_goes_on(members: Members) -> None:
    members.supervise([START, *[Step()] * 9, ANSWER], [START, *[Step(ended(LOAD_FAILED))] * 99])
    assert members.taken == ["a"] and "give_back" in members.drivers[1].calls


def test_last_error_ends_the_run(members: Members) -> None:
    with pytest.raises(EngineError):
        members.supervise([START, LOST, LOST], [START, Step(), Step(), Step(ended(LOAD_FAILED))])
    assert all(handle.calls[-1] == "close" for handle in members.handles)


def test_hosts_that_are_down_at_the_start_end_it(members: Members) -> None:
    with pytest.raises(LinkLost):
        members.supervise([LOST], [LOST], patience_s=60)


def test_all_links_lost_are_waited_for(members: Members) -> None:
    members.supervise([START, Step(), *[LOST] * 3, ANSWER], [START, Step(), *[LOST] * 99], patience_s=60)
    assert members.taken == ["a"]


def test_host_lost_at_the_end_is_only_named(members: Members, capsys: pytest.CaptureFixture[str]) -> None:
    members.supervise([START, Step(), ANSWER], [START, *[Step()] * 4, LOST, Step()])
    assert "job_not_cleaned_up" in capsys.readouterr().out
    assert "give_back" not in members.drivers[1].calls


def test_frozen_host_holds_up_no_other(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call to it that does not come back: the others go on, and the run ends."""
    monkeypatch.setattr(fleet, "END_S", 0.1)
    thawed = threading.Event()
    members.handles[1].survives_controller = True
    members.supervise([START, *[Step()] * 20, ANSWER], [START, Step(meanwhile=lambda: thawed.wait(20))])
    assert members.taken == ["a"]
    thawed.set()


def test_other_errors_end_the_run_at_once(members: Members) -> None:
    for handle in members.handles:
        handle.survives_controller = True
    with pytest.raises(ZeroDivisionError):
        members.supervise([START, Step()], [START, raises(ZeroDivisionError())])


def test_lone_job_is_never_left_out(members: Members) -> None:
    members.handles[0].steps = [START, raises(HostError("full"))]
    with pytest.raises(HostError, match="full"):
        supervise(members.drivers[:1], Quiet(), lambda supervisors: None)
    assert "give_back" not in members.drivers[0].calls


def test_canceled_run_starts_no_other_worker(members: Members) -> None:
    """One member is left out and would be tried again; then somebody cancels the run."""
    members.handles[0].cancelled = True
    with pytest.raises(RunCancelled):
        members.supervise([START, *[Step()] * 5, Step(ended(CANCELLED))], [START, LOST, *[Step()] * 99])
    assert "start" not in members.handles[1].calls[members.handles[1].calls.index("start") + 1 :]


def test_second_ctrl_c_reaches_all_others(members: Members, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(supervisors: object = None) -> None:
        raise KeyboardInterrupt

    def lose() -> None:
        raise LinkLost("a: gone")

    monkeypatch.setattr("src.runs.fleet.time.sleep", interrupt)
    for handle in members.handles:
        handle.survives_controller, handle.steps = True, [START, Step(), Step(ended(CANCELLED))]
    members.handles[0].on_stop = lose
    supervisors = [Supervisor(driver) for driver in members.drivers]
    for supervisor in supervisors:
        next(supervisor.steps(Quiet()))
    with pytest.raises(LinkLost):
        _detach_or_stop(KeyboardInterrupt(), supervisors)
    assert "ask_to_stop" in members.handles[1].calls and "take_rest" in members.drivers[1].calls
