"""Journals in the mirror of a job's folder: the local copy is always a byte-exact beginning of the host's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import HostError, LinkLost
from src.hosts import mirror as mirror_module
from src.hosts.job_folder import ABSENT, QUEUED, RUNNING, JobPaths, JobStatus, State, ended
from src.hosts.launch import Launch
from src.hosts.mirror import MOST_REREAD, Polled, RemoteFolder, answer_of, locate, peek
from src.hosts.runtimes import DockerRuntime, ProcessRuntime
from src.hosts.slurm import SlurmRuntime
from src.worker.protocol import Event, Exit, Outcome
from src.worker.records import to_line
from tests.harness.fake_host import LOST_AFTER, LOST_BEFORE, FakeHost, prints

QUESTION = ("echo", "running")
LINES = [f"{to_line(Outcome(f'i{n}', 'upsampled', text='long ' * (n % 7)))}\n".encode() for n in range(30)]


@pytest.fixture
def mirror(host: FakeHost, launch: Launch, job: JobPaths) -> RemoteFolder:
    made = RemoteFolder(host, job, locate(host, launch.host, job))
    made.create()
    return made


@pytest.fixture
def there(mirror: RemoteFolder) -> JobPaths:
    return JobPaths(Path(mirror.folder))


def reopened(mirror: RemoteFolder) -> RemoteFolder:
    """The mirror of another controller with the same local folder."""
    return RemoteFolder(mirror.host, mirror.job, mirror.location)


# -------------------------------------------------------------------------------------------------------------- poll


def test_copy_is_a_prefix_at_any_cut(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "LIMIT", 700)
    data, dice, written = b"".join(LINES[:12]), random.Random(3), 0
    while written < len(data):
        written = min(len(data), written + dice.randrange(700))
        there.results.write_bytes(data[:written])
        while mirror.poll(QUESTION).has_more:
            pass
        copy = job.results.read_bytes() if job.results.exists() else b""
        assert copy == data[: data[:written].rfind(b"\n") + 1]


def test_backlog_comes_in_several_polls(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "LIMIT", 500)
    there.results.write_bytes(b"".join(LINES))
    polls = 1
    while mirror.poll(QUESTION).has_more:
        polls += 1
    assert polls > 2
    assert job.results.read_bytes() == there.results.read_bytes()


def test_state_is_asked_before_the_journals(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    writes_and_ends = ("sh", "-c", f'printf "%s" \'{LINES[0].decode()}\' >> "$1"; echo ended', "sh", str(there.results))
    assert mirror.poll(writes_and_ends).answer.strip() == "ended"
    assert job.results.read_bytes() == LINES[0]


def test_answer_may_have_several_lines(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    there.results.write_bytes(LINES[0])
    polled = mirror.poll(("sh", "-c", "echo two >&2; echo one; exit 3"))
    assert polled == Polled("one \ntwo\n")
    assert job.results.read_bytes() == LINES[0]


@pytest.mark.parametrize(
    "words", ["sudo: unable to resolve host gpu", "ERROR: ld.so: object ignored", "it is not running"]
)
def test_errors_of_a_wrapper_are_not_the_answer(
    mirror: RemoteFolder, there: JobPaths, launch: Launch, words: str
) -> None:
    host, location = mirror.host, mirror.location
    inspected = f"running 0 false {Path(mirror.folder).name} {location.root}"
    for runtime, printed, state in (
        (DockerRuntime(host, launch, location), inspected, RUNNING),
        (SlurmRuntime(host, launch, location), "queued", QUEUED),
        (ProcessRuntime(host, launch, location), "absent", ABSENT),
    ):
        for question in ('echo "$1" >&2; echo "$2"', 'echo "$2"; echo "$1" >&2'):
            assert runtime.state(mirror.poll(("sh", "-c", question, "-", words, printed)).answer) == state


def test_lost_answer_is_polled_again(mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost) -> None:
    there.results.write_bytes(LINES[0])
    there.events.write_bytes(b"{}\n")
    for fault in (LOST_AFTER, LOST_BEFORE):
        host.fail(mirror_module._POLL, fault)
        with pytest.raises(LinkLost):
            mirror.poll(QUESTION)
    mirror.poll(QUESTION)
    mirror.poll(QUESTION)
    assert (job.results.read_bytes(), job.events.read_bytes()) == (LINES[0], b"{}\n")


@pytest.mark.parametrize("garbage", ["", "running\n", "running\nwelcome\n\nmotd\n", "\0\xff"])
def test_unreadable_poll_changes_nothing(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost, garbage: str
) -> None:
    host.fail(mirror_module._POLL, prints(garbage))
    with pytest.raises(HostError, match="unexpected output"):
        mirror.poll(QUESTION)
    assert not job.results.exists()


def test_failed_poll_is_quoted(mirror: RemoteFolder, host: FakeHost) -> None:
    host.fail(mirror_module._POLL, prints("", 127, b"sh: stat: not found"))
    with pytest.raises(HostError, match="the job cannot be polled: sh: stat: not found"):
        mirror.poll(QUESTION)


def test_poll_renews_the_lease(mirror: RemoteFolder, there: JobPaths) -> None:
    mirror.create()
    assert not there.lease.exists()
    mirror.poll(("true",))
    assert there.lease.exists()


def test_missing_folder_is_gone(mirror: RemoteFolder) -> None:
    mirror.remove()
    assert mirror.poll(QUESTION) == Polled("running \n", is_gone=True)


def test_exit_record_is_brought_if_present(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    assert not mirror.bring_exit_record()
    there.exit.write_text('{"code": 0, "state": "done"}')
    assert mirror.bring_exit_record()
    assert job.exit_record() == Exit(0, "done")


def test_endless_line_is_an_error(mirror: RemoteFolder, there: JobPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "LIMIT", 100)
    there.results.write_bytes(b"\0" * 1000)
    with pytest.raises(HostError, match=r"results\.jsonl, byte 0: no line ends within 100 bytes"):
        mirror.poll(QUESTION)


# ----------------------------------------------------------------------------------------------------------- changes


@pytest.mark.parametrize("journal", ["results", "events"])
def test_shortened_journal_is_read_again(mirror: RemoteFolder, job: JobPaths, there: JobPaths, journal: str) -> None:
    here, far = getattr(job, journal), getattr(there, journal)
    far.write_bytes(b"".join(LINES[:3]))
    mirror.poll(QUESTION)
    far.write_bytes(LINES[0])
    assert mirror.poll(QUESTION).has_more
    mirror.poll(QUESTION)
    assert here.read_bytes() == LINES[0]


def test_journal_that_keeps_changing_is_refused(mirror: RemoteFolder, there: JobPaths) -> None:
    for n in range(2 * MOST_REREAD + 1):
        there.results.write_bytes(b"".join(LINES[: 2 - n % 2]))
        mirror.poll(QUESTION)
    there.results.write_bytes(LINES[0])
    with pytest.raises(HostError, match="differs from the copy") as error:
        mirror.poll(QUESTION)
    assert "remove that folder" in error.value.hint


@pytest.mark.parametrize("change", [lambda data: data.replace(b"i1", b"iX"), lambda data: data[:-5]])
def test_changed_journal_is_read_again(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, change: Callable[[bytes], bytes]
) -> None:
    there.results.write_bytes(b"".join(LINES[:3]))
    mirror.poll(QUESTION)
    there.results.write_bytes(change(there.results.read_bytes()))
    again = reopened(mirror)
    again.create()
    again.poll(QUESTION)
    whole = there.results.read_bytes()
    assert job.results.read_bytes() == whole[: whole.rfind(b"\n") + 1]


def test_grown_journal_is_accepted_on_resuming(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    there.results.write_bytes(b"".join(LINES[:3]))
    mirror.poll(QUESTION)
    there.results.write_bytes(b"".join(LINES))
    again = reopened(mirror)
    again.create()
    again.poll(QUESTION)
    assert job.results.read_bytes() == b"".join(LINES)


def test_lost_journal_is_restored(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    there.results.write_bytes(b"".join(LINES[:3]))
    mirror.poll(QUESTION)
    mirror.remove()
    reopened(mirror).create()
    assert there.results.read_bytes() == job.results.read_bytes() == b"".join(LINES[:3])


def test_restoring_survives_a_lost_link(mirror: RemoteFolder, there: JobPaths, host: FakeHost) -> None:
    there.results.write_bytes(b"".join(LINES[:3]))
    mirror.poll(QUESTION)
    mirror.remove()
    for number in range(1, 4):
        host.fail_at(len(host.commands) + number, LOST_AFTER)
        with pytest.raises(LinkLost):
            reopened(mirror).create()
        assert not there.results.exists() or there.results.read_bytes() == b"".join(LINES[:3])
    reopened(mirror).create()
    assert there.results.read_bytes() == b"".join(LINES[:3])


# -------------------------------------------------------------------------------------------------------------- peek


def test_peek_counts_final_outcomes(host: FakeHost, there: JobPaths) -> None:
    refused = to_line(Outcome("a", "refused", refusal="too_long"))
    there.results.write_bytes(f"{refused}\n".encode() + b"".join(LINES[:3]))
    events = [Event("phase", 1.0, phase="loading"), Event("phase", 2.0, phase="serving"), Event("heartbeat", 3.0)]
    there.events.write_text("".join(f"{to_line(event)}\n" for event in events))
    status = peek(host, str(there.root), RUNNING)
    assert (status.state, status.answered, status.phase, status.per_s) == (RUNNING, 3, "serving", None)
    there.exit.write_text('{"code": 0, "state": "done"}\n')
    assert peek(host, str(there.root), State("ended")).state == ended(0)


def test_peek_tells_the_pace(host: FakeHost, there: JobPaths) -> None:
    now = time.time()
    beats = [Event("heartbeat", now - 20 + n, answered=3 * n) for n in range(11)]
    there.events.write_text("".join(f"{to_line(beat)}\n" for beat in beats))
    status = peek(host, str(there.root), RUNNING)
    assert status.per_s == pytest.approx(3.0)
    assert status.beat_age_s == pytest.approx(10.0, abs=2.0)


def test_peek_at_an_empty_folder_finds_nothing(host: FakeHost, there: JobPaths, tmp_path: Path) -> None:
    for folder in (there.root, tmp_path / "gone"):
        assert peek(host, str(folder), RUNNING) == JobStatus(RUNNING, 0, "")


@pytest.mark.parametrize("garbage", ["welcome\n\n\n", "", "3\n{not json}\n", "3\n\n9\n\n{}\n"])
def test_unreadable_peek_is_an_error(host: FakeHost, there: JobPaths, garbage: str) -> None:
    host.fail(mirror_module._PEEK, prints(garbage))
    with pytest.raises(HostError, match="not a valid job folder"):
        peek(host, str(there.root), State("ended"))


def test_peek_leaves_the_copy_alone(mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost) -> None:
    there.results.write_bytes(LINES[0])
    peek(host, mirror.folder, RUNNING)
    assert not job.results.exists()


def test_answer_comes_from_either_stream(host: FakeHost) -> None:
    assert answer_of(host, ("sh", "-c", "echo out; echo err >&2")) == "out \nerr\n"
    assert answer_of(host, ("sh", "-c", "echo err >&2; exit 1")) == "\nerr\n"
