"""Ctrl-C and errors while jobs are supervised: who is detached from, who is asked to stop. Jobs are fakes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.errors import Detached, HostError, LinkLost
from src.hosts.job_folder import ABSENT, JobPaths, ended
from src.runs import fleet
from src.runs.fleet import SECOND_CTRL_C_S, how_to_reattach, supervise
from src.runs.supervisor import Supervisor
from src.timing.progress import Quiet
from tests.harness.fake_handle import FakeDriver, FakeHandle, Step


@pytest.fixture
def folder(tmp_path: Path) -> JobPaths:
    job = JobPaths(tmp_path / "run" / "job" / "0123456789abcdef")
    job.root.mkdir(parents=True)
    return job


@pytest.fixture
def second_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Holds whether a second Ctrl-C comes during the pause for it; pauses take no time."""
    comes = [False]

    def sleep(seconds: float) -> None:
        if seconds == SECOND_CTRL_C_S and comes[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(fleet, "time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    return comes


def interrupt_after(
    rounds: int, error: type[BaseException] = KeyboardInterrupt
) -> Callable[[Sequence[Supervisor]], None]:
    """A display during which Ctrl-C comes, after so many rounds."""
    left = [rounds]

    def show(supervisors: Sequence[Supervisor]) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise error

    return show


def running(folder: JobPaths, *, survives_controller: bool = True) -> tuple[FakeDriver, FakeHandle]:
    handle = FakeHandle(folder, [Step(ABSENT), Step()], survives_controller=survives_controller)
    return FakeDriver(folder, "ab", handle), handle


def test_ctrl_c_detaches_from_a_remote_job(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    driver, handle = running(folder)
    with pytest.raises(Detached, match="box") as error:
        supervise([driver], Quiet(), interrupt_after(2))
    assert error.value.hint == how_to_reattach(folder.run_folder)
    assert "ask_to_stop" not in handle.calls and "finish" not in handle.calls
    assert handle.calls[-2:] == ["fail_fast", "close"]
    assert driver.calls == ["begin", "stop", "close"]
    assert not folder.closed.exists() and not folder.finished.exists()


def test_hint_names_both_commands(tmp_path: Path) -> None:
    hint = how_to_reattach(tmp_path / "a run")
    assert "resume=" in hint and "task=cancel" in hint and "a run" in hint


def test_second_ctrl_c_cancels(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    second_ctrl_c[0] = True
    driver, handle = running(folder)
    handle.on_stop = lambda: handle.steps.append(Step(ended(143)))
    with pytest.raises(KeyboardInterrupt):
        supervise([driver], Quiet(), interrupt_after(2))
    assert handle.calls[-3:] == ["fail_fast", "ask_to_stop", "close"]
    assert driver.calls == ["begin", "stop", "take_rest", "close"]
    assert handle.poll() == ended(143)  # it was waited for


def test_ctrl_c_stops_a_local_worker(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    driver, handle = running(folder, survives_controller=False)
    handle.on_stop = lambda: handle.steps.extend([Step(), Step(ended(143))])
    with pytest.raises(KeyboardInterrupt):
        supervise([driver], Quiet(), interrupt_after(2))
    assert handle.calls[-2:] == ["ask_to_stop", "close"]
    assert "fail_fast" not in handle.calls
    assert driver.calls == ["begin", "stop", "take_rest", "close"]


def test_error_leaves_a_remote_job_running(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    driver, handle = running(folder)
    with pytest.raises(ZeroDivisionError):
        supervise([driver], Quiet(), interrupt_after(2, ZeroDivisionError))
    assert "ask_to_stop" not in handle.calls
    assert handle.calls[-2:] == ["fail_fast", "close"]


def test_error_stops_a_local_worker(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    driver, handle = running(folder, survives_controller=False)
    handle.on_stop = lambda: handle.steps.append(Step(ended(143)))
    with pytest.raises(ZeroDivisionError):
        supervise([driver], Quiet(), interrupt_after(2, ZeroDivisionError))
    assert "ask_to_stop" in handle.calls and "take_rest" in driver.calls


def test_unprepared_job_is_left_alone(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    driver, handle = running(folder)

    def unreachable() -> None:
        raise LinkLost("box: the link is cut")

    handle.prepare = unreachable  # type: ignore[method-assign]
    with pytest.raises(LinkLost):
        supervise([driver], Quiet(), lambda supervisors: None)
    assert handle.calls == ["close"]
    assert driver.calls == ["stop", "close"]


def test_all_remote_jobs_are_detached_together(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    other = JobPaths(folder.root.with_name("f" * 16))
    other.root.mkdir()
    jobs = [running(folder), running(other)]
    with pytest.raises(Detached):
        supervise([driver for driver, _ in jobs], Quiet(), interrupt_after(2))
    assert all(handle.calls[-2:] == ["fail_fast", "close"] for _, handle in jobs)


def test_lost_link_while_canceling_is_an_error(folder: JobPaths, second_ctrl_c: list[bool]) -> None:
    second_ctrl_c[0] = True
    driver, handle = running(folder)

    def unreachable() -> None:
        raise HostError("box: the job cannot be cancelled")

    handle.on_stop = unreachable
    with pytest.raises(HostError, match="cannot be cancelled"):
        supervise([driver], Quiet(), interrupt_after(2))
    assert driver.calls[-1] == "close"


def test_interrupt_while_answers_are_taken(
    folder: JobPaths, second_ctrl_c: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    handle = FakeHandle(
        folder, [Step(ABSENT), Step(results=("a",)), Step(ended(143), results=("b",))], survives_controller=False
    )
    driver = FakeDriver(folder, "ab", handle)
    monkeypatch.setattr(driver, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        supervise([driver], Quiet(), lambda supervisors: None)
    assert driver.taken == ["a", "b"]
