"""One run on three hosts, each with a real sshd: they share the items, and one that is lost holds up none of the others."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.program import wait_for
from tests.harness.remote_fleet import RemoteFleet
from tests.harness.sshd import missing

SLOW = ("engine.in_flight=2", "engine.item_delay_s=0.05", "budget.max_batch_size=4")


@pytest.fixture
def fleet(tmp_path: Path, cache_dir: Path, small: str, clips: Path) -> Iterator[RemoteFleet]:
    if reason := missing():
        pytest.skip(reason)
    fleet = RemoteFleet(tmp_path, 3, cache_dir, small, clips)
    yield fleet
    fleet.close()


def test_hosts_share_the_items(fleet: RemoteFleet) -> None:
    end = fleet.start_run(90, *SLOW).ended()
    fleet.assert_whole(end)
    shares = fleet.shares()
    assert len(shares) == 3 and min(shares) >= 10, shares
    assert fleet.workers() == {}
    assert list((fleet.root / "jobs").iterdir()) == []


def test_lost_host_is_left_out(fleet: RemoteFleet) -> None:
    """One host's link breaks for good, and its worker dies; the others answer what it held."""
    process = fleet.start_run(120, *SLOW, "host.silent_s=3")
    wait_for(lambda: fleet.ended() > 20 and len(fleet.workers()) == 3)
    fleet.sshds[1].kill()
    end = process.ended()
    fleet.assert_whole(end, most_twice=16)
    assert set(fleet.logged("host_left_out")) == {fleet.name(1)}


def test_host_that_is_down_is_used_later(fleet: RemoteFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.sshds[2].kill()
    process = fleet.start_run(240, "engine.in_flight=2", "engine.item_delay_s=0.5", "budget.max_batch_size=4")
    wait_for(lambda: fleet.logged("host_left_out"))
    fleet.sshds[2].start()  # at once, so that the first of the tries, which become rarer, finds it
    wait_for(lambda: fleet.ended() > 20)
    fleet.assert_whole(process.ended())
    assert set(fleet.logged("host_left_out")) == {fleet.name(2)}
    assert len(fleet.shares()) == 3 and min(fleet.shares()) > 0


def test_killed_controller_is_resumed(fleet: RemoteFleet) -> None:
    process = fleet.start_run(150, *SLOW)
    wait_for(lambda: fleet.ended() > 30)
    process.kill()
    status = fleet.task("status")
    assert status.code == 0, status.err
    rows = re.findall(r"^worker +(\S+): running, (\d+) open, (\d+) done", status.out, re.MULTILINE)
    assert [name for name, *_ in rows] == [fleet.name(n) for n in range(3)], status.out
    for pid in [*fleet.workers()][:1]:
        os.kill(pid, signal.SIGKILL)
    fleet.assert_whole(fleet.resume(), most_twice=4)


def test_cancel_ends_all_workers(fleet: RemoteFleet) -> None:
    process = fleet.start_run(60, "engine.in_flight=2", "engine.item_delay_s=3")
    wait_for(lambda: len(fleet.workers()) == 3)
    canceled = fleet.task("cancel")
    assert canceled.code == 0, canceled.err
    assert process.ended().code == 4
    assert fleet.workers() == {}
    again = fleet.start(f"resume={fleet.run}")
    wait_for(lambda: len(fleet.workers()) == 3)
    again.interrupt()
    end = again.ended()
    assert end.code == 130 and "reattach" in end.err, end.err


def test_all_hosts_down_is_an_error(fleet: RemoteFleet) -> None:
    for sshd in fleet.sshds:
        sshd.kill()
    end = fleet.start_run(3).ended()
    assert end.code in (4, 6) and "cannot be reached" in end.err, end.err
