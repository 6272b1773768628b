"""The mirror of a job's folder: what is sent, in which order, and what survives a link that breaks at any point.

The scripts are the real ones; only the link is a fake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import HostError, LinkLost
from src.hosts import mirror as mirror_module
from src.hosts import transfer
from src.hosts.job_folder import JobPaths
from src.hosts.launch import Launch
from src.hosts.mirror import REMOVE, Location, RemoteFolder, SharedFolder, locate
from src.planning.settings import HostSettings
from tests.harness.fake_host import LOST_AFTER, LOST_BEFORE, FakeHost, Fault, prints
from tests.harness.records import frame_of, item, write_lines

FRAMES = [bytes([n]) * 20_000 for n in range(6)]


def stage(job: JobPaths, name: str, *frames: bytes) -> None:
    """A batch of one item for each frame."""
    for frame in frames:
        (job.frames / frame_of(frame)).write_bytes(frame)
    items = [item(f"{name}-{n}", frames=(f"frames/{frame_of(frame)}",)) for n, frame in enumerate(frames)]
    write_lines(job.batches / f"{name}.jsonl", items)


@pytest.fixture
def settings(launch: Launch) -> HostSettings:
    return launch.host


@pytest.fixture
def location(host: FakeHost, settings: HostSettings, job: JobPaths) -> Location:
    return locate(host, settings, job)


@pytest.fixture
def mirror(host: FakeHost, job: JobPaths, location: Location) -> RemoteFolder:
    made = RemoteFolder(host, job, location)
    made.create()
    return made


@pytest.fixture
def there(mirror: RemoteFolder) -> JobPaths:
    """The job's folder on the host."""
    return JobPaths(Path(mirror.folder))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---------------------------------------------------------------------------------------------------------- location


def test_job_is_located_below_the_root(host: FakeHost, settings: HostSettings, job: JobPaths, root: Path) -> None:
    location = locate(host, settings, job)
    assert location == Location(str(root), f"{root}/jobs/{job.root.name}", f"{os.getuid()}:{os.getgid()}")
    assert root.is_dir()


def test_full_disk_is_reported(host: FakeHost, settings: HostSettings, job: JobPaths) -> None:
    host.fail(mirror_module._SPACE, prints("0\n0\n/root\n1023\n"))
    with pytest.raises(HostError, match="the disk is full") as error:
        locate(host, settings, job)
    assert "free some space" in error.value.hint


def test_chatty_shell_is_reported(host: FakeHost, settings: HostSettings, job: JobPaths) -> None:
    host.fail("cd && pwd", prints("Welcome to box!\n/root\n"))
    with pytest.raises(HostError, match="Welcome to box!"):
        locate(host, settings, job)


def test_unusable_root_is_reported(host: FakeHost, settings: HostSettings, job: JobPaths, root: Path) -> None:
    root.parent.mkdir(parents=True)
    root.write_text("a file")
    with pytest.raises(HostError, match="cannot be used"):
        locate(host, settings, job)


# -------------------------------------------------------------------------------------------------------------- push


def test_folder_arrives_as_it_is(mirror: RemoteFolder, job: JobPaths, there: JobPaths, tmp_path: Path) -> None:
    stage(job, "00000", *FRAMES)
    job.closed.touch()
    mirror.push()
    assert files_of(there.root) == files_of(job.root)
    assert mirror.sent_bytes >= sum(map(len, FRAMES))
    assert not (tmp_path / "interpreted").exists()


def test_nothing_staged_runs_no_command(mirror: RemoteFolder, job: JobPaths, host: FakeHost) -> None:
    mirror.push()
    before = len(host.commands)
    mirror.push()
    assert len(host.commands) == before


def test_batches_never_precede_their_frames(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost
) -> None:
    seen: set[tuple[bool, bool]] = set()

    def check() -> None:
        batches = list(there.batches.glob("*.jsonl"))
        if batches:
            assert {frame_of(frame) for frame in FRAMES} <= set(os.listdir(there.frames))
        assert len(batches) == 2 or not there.closed.exists()
        seen.add((bool(batches), there.closed.exists()))

    stage(job, "00000", *FRAMES[:3])
    stage(job, "00001", *FRAMES[3:])
    job.closed.touch()
    host.after = check
    mirror.push()
    assert seen == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("lost", ["before", "after"])
def test_push_is_complete_despite_lost_links(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost, lost: str
) -> None:
    stage(job, "00000", *FRAMES)
    job.closed.touch()
    first = len(host.commands)
    for number in range(12):  # each attempt gets one command further
        host.fail_at(first + number + number * (number + 1) // 2, Fault(lost))
        try:
            mirror.push()
        except LinkLost:
            continue
        break
    mirror.push()
    assert files_of(there.root) == files_of(job.root)


def test_interrupted_transfer_is_continued(
    mirror: RemoteFolder, job: JobPaths, host: FakeHost, there: JobPaths
) -> None:
    stage(job, "00000", *FRAMES)
    whole = sum(map(len, FRAMES))
    host.fail(transfer._TAKE, Fault(cut_at=whole // 2))
    with pytest.raises(LinkLost):
        mirror.push()
    assert not there.frames.exists() or not os.listdir(there.frames)
    before = mirror.sent_bytes
    mirror.push()
    assert files_of(there.root) == files_of(job.root)
    assert mirror.sent_bytes - before < 0.75 * whole


def test_later_batches_are_added(mirror: RemoteFolder, job: JobPaths, there: JobPaths, host: FakeHost) -> None:
    stage(job, "00000", *FRAMES[:3])
    mirror.push()
    before = mirror.sent_bytes
    stage(job, "00001", FRAMES[0], FRAMES[3])
    mirror.push()
    assert files_of(there.root) == files_of(job.root)
    assert mirror.sent_bytes - before < 2 * len(FRAMES[3])


def test_known_frames_do_not_travel(
    mirror: RemoteFolder, job: JobPaths, host: FakeHost, location: Location, tmp_path: Path
) -> None:
    stage(job, "00000", *FRAMES)
    mirror.push()
    store = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(location.root, "frames").iterdir()}
    other = JobPaths(tmp_path / "other" / "job" / "fedcba9876543210")
    for folder in (other.batches, other.frames):
        folder.mkdir(parents=True)
    for file in (other.job, other.worker):
        file.write_text("{}")
    stage(other, "00000", *FRAMES)
    second = RemoteFolder(host, other, Location(location.root, f"{location.root}/jobs/{other.root.name}", ""))
    second.create()
    second.push()
    assert second.sent_bytes == 0
    assert files_of(Path(second.folder)) == files_of(other.root)
    assert store == {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(location.root, "frames").iterdir()}


def test_damaged_frames_are_replaced(mirror: RemoteFolder, job: JobPaths, there: JobPaths, location: Location) -> None:
    stage(job, "00000", *FRAMES)
    store = Path(location.root, "frames")
    (store / frame_of(FRAMES[0])).write_bytes(FRAMES[0][:1000])  # as a power failure may leave it
    (store / frame_of(FRAMES[1])).write_bytes(b"\0" * len(FRAMES[1]))
    mirror.push()
    assert files_of(there.root) == files_of(job.root)
    assert {p.name: p.read_bytes() for p in store.iterdir()} == {frame_of(f): f for f in FRAMES}


@pytest.mark.parametrize("in_store", [True, False])
def test_frame_damaged_in_the_job_is_replaced(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, location: Location, in_store: bool
) -> None:
    stage(job, "00000", *FRAMES)
    mirror.push()
    frame = frame_of(FRAMES[0])
    (there.root / "frames" / frame).write_bytes(b"damaged")  # the store's too: it is one file
    if not in_store:
        Path(location.root, "frames", frame).unlink()
    stage(job, "00001", *FRAMES)
    RemoteFolder(mirror.host, job, location).push()
    assert files_of(there.root) == files_of(job.root)
    assert Path(location.root, "frames", frame).read_bytes() == FRAMES[0]


def test_half_staged_files_are_completed(
    mirror: RemoteFolder, job: JobPaths, there: JobPaths, location: Location
) -> None:
    stage(job, "00000", *FRAMES)
    incoming, foreign = there.root / f".incoming-{mirror._key}", there.root / ".incoming-of-another-controller"
    frames = Path(location.root, "frames", f".incoming-{mirror._key}")
    for folder in (incoming / "batches", foreign, frames):
        folder.mkdir(parents=True)
    (incoming / "worker.pyz").write_bytes(b"half")
    (incoming / "batches" / "00000.jsonl").write_text('{"id": "')
    (frames / frame_of(FRAMES[0])).write_bytes(FRAMES[0])
    (frames / frame_of(FRAMES[1])).write_bytes(FRAMES[1][:100])
    mirror.push()
    assert files_of(there.root) == files_of(job.root)
    assert foreign.is_dir() and not incoming.exists()


def test_wrong_content_is_sent_again(mirror: RemoteFolder, job: JobPaths, there: JobPaths, location: Location) -> None:
    stage(job, "00000", *FRAMES)
    frames = Path(location.root, "frames", f".incoming-{mirror._key}")
    frames.mkdir(parents=True)
    for frame in FRAMES:
        (frames / frame_of(frame)).write_bytes(b"\0" * len(frame))  # of the right size
    with pytest.raises(LinkLost, match="did not arrive as it was sent"):
        mirror.push()
    mirror.push()
    assert files_of(there.root) == files_of(job.root)


def test_disk_full_while_sending_is_final(mirror: RemoteFolder, job: JobPaths, host: FakeHost) -> None:
    stage(job, "00000", *FRAMES)
    host.fail(transfer._TAKE, prints("", 2, b"tar: frames/x.png: Cannot write: No space left on device"))
    with pytest.raises(HostError, match="No space left") as error:
        mirror.push()
    assert not isinstance(error.value, LinkLost)
    assert "the disk there is full" in error.value.hint


# ------------------------------------------------------------------------------------------------- folder and removal


def test_resumed_controller_pushes_only_the_rest(
    mirror: RemoteFolder, job: JobPaths, host: FakeHost, location: Location
) -> None:
    stage(job, "00000", *FRAMES)
    mirror.push()
    resumed = RemoteFolder(host, job, location)
    resumed.create()
    stage(job, "00001", FRAMES[0])
    before = host.received
    resumed.push()
    assert resumed.sent_bytes == 0
    assert host.received - before < 60_000 + job.worker.stat().st_size
    assert files_of(Path(resumed.folder)) == files_of(job.root)


def test_removed_folder_is_created_again(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    stage(job, "00000", *FRAMES)
    there.events.write_bytes(b'{"event":"phase","time":1.0}\n')
    mirror.push()
    mirror.poll(("echo", "running"))
    mirror.remove()
    assert mirror.poll(("echo", "absent")).is_gone
    mirror.create()
    mirror.push()
    assert job.events.read_bytes() == b""
    assert files_of(there.root) == {k: v for k, v in files_of(job.root).items() if k != "events.jsonl"}


def test_removal_spares_recent_frames(mirror: RemoteFolder, job: JobPaths, there: JobPaths, location: Location) -> None:
    stage(job, "00000", *FRAMES[:3])
    mirror.push()
    old, linked, recent = (Path(location.root, "frames", frame_of(frame)) for frame in FRAMES[:3])
    other = Path(location.root, "jobs", "fedcba9876543210")
    other.mkdir()
    os.link(linked, other / linked.name)
    for path in (old, linked):
        os.utime(path, (0, 0))
    mirror.remove()
    assert not there.root.exists()
    assert (old.exists(), linked.exists(), recent.exists()) == (False, True, True)


def test_simultaneous_removals_all_succeed(there: JobPaths, location: Location) -> None:
    for _ in range(10):
        for n in range(20):
            (there.root / "frames" / str(n)).mkdir(parents=True)
        command = ("sh", "-c", REMOVE, "sh", str(there.root), location.root)
        processes = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(6)]
        assert [process.wait() for process in processes] == [0] * 6
        assert not there.root.exists()


@pytest.mark.parametrize("known", [False, True], ids=["frames to send", "frames that are there"])
def test_nothing_is_sent_after_a_removal(mirror: RemoteFolder, job: JobPaths, there: JobPaths, known: bool) -> None:
    """Another controller of the job removed the folder meanwhile."""
    if known:
        stage(job, "00000", *FRAMES[:2])
        mirror.push()
    mirror.remove()
    stage(job, "00001", *FRAMES[:2])
    mirror.job.closed.touch()
    mirror.push()
    assert not there.root.exists() and mirror.poll(("true",)).is_gone
    mirror.create()
    mirror.push()
    assert {path.name for path in there.batches.iterdir()} == {path.name for path in job.batches.iterdir()}
    assert there.closed.exists()


def test_folder_that_is_no_job_is_not_removed(mirror: RemoteFolder, there: JobPaths) -> None:
    mirror.remove()
    there.root.mkdir()
    (there.root / "notes.txt").touch()
    with pytest.raises(HostError, match="cannot be removed"):
        mirror.remove()
    assert (there.root / "notes.txt").exists()


def test_missing_folder_of_frames_is_an_error(mirror: RemoteFolder, job: JobPaths, location: Location) -> None:
    shutil.rmtree(Path(location.root, "frames"))
    stage(job, "00000", *FRAMES[:2])
    with pytest.raises(HostError):
        mirror.push()


@pytest.mark.parametrize("name", ["", "..", "../jobs", "a/b", "0123456789abcdef/../../frames"])
def test_only_job_folders_are_removed(host: FakeHost, mirror: RemoteFolder, location: Location, name: str) -> None:
    wrong = RemoteFolder(host, mirror.job, Location(location.root, f"{location.root}/jobs/{name}", ""))
    with pytest.raises(HostError, match="cannot be removed"):
        wrong.remove()
    assert Path(mirror.folder).is_dir()


def test_files_are_fetched_by_name(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    (there.root / "videos").mkdir()
    (there.root / "videos" / "a.mp4").write_bytes(b"a video")
    mirror.fetch({})
    mirror.fetch({"videos/a.mp4": 7})
    assert (job.root / "videos" / "a.mp4").read_bytes() == b"a video"


def test_logs_are_fetched_up_to_a_limit(mirror: RemoteFolder, job: JobPaths, there: JobPaths) -> None:
    there.log.write_bytes(b"x" + b"y" * 2_097_152)
    mirror.fetch_logs()
    assert job.log.read_bytes() == b"y" * 2_097_152
    assert not job.engine_log.exists()


def test_shared_folder_is_used_in_place(host: FakeHost, job: JobPaths, settings: HostSettings, root: Path) -> None:
    shared = SharedFolder(host, job, Location(str(root), str(job.root), ""))
    shared.create()
    assert (root / "cache" / "home").is_dir()
    assert shared.poll(("echo", "running")).answer.strip() == "running"
    assert not shared.bring_exit_record()
    job.exit.write_text("{}")
    assert shared.bring_exit_record()
    commands: Callable[[], int] = lambda: len(host.commands)  # noqa: E731
    before = commands()
    shared.push()
    shared.fetch({"a": 1})
    shared.fetch_logs()
    shared.remove()
    assert commands() == before and job.root.is_dir()


@pytest.mark.parametrize("fault", [LOST_BEFORE, LOST_AFTER])
def test_creation_may_be_done_twice(host: FakeHost, job: JobPaths, location: Location, fault: Fault) -> None:
    made = RemoteFolder(host, job, location)
    host.fail(mirror_module._MAKE, fault)
    with pytest.raises(LinkLost):
        made.create()
    made.create()
    assert Path(made.folder, "batches").is_dir()


def test_host_gets_no_file_beside_the_frames(
    host: FakeHost, mirror: RemoteFolder, job: JobPaths, tmp_path: Path
) -> None:
    """It answers which frames it lacks, and could name any file of this machine."""
    (tmp_path / "secret").write_text("swordfish")
    stage(job, "0", FRAMES[0])
    host.fail(mirror_module._LINK, prints(f"{os.path.relpath(tmp_path / 'secret', job.frames)}\n"))
    with pytest.raises(HostError, match="unexpected output"):
        mirror.push()


def test_host_makes_no_file_be_read_outside(mirror: RemoteFolder, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(ValueError, match=r"\.\."):
        list(mirror._local(f"{'0' * 64}  {os.path.relpath(tmp_path / 'pipe', mirror.job.root)}\n"))
