"""What earlier or other controllers left on a host: half-staged jobs, damaged frames, stale jobs, foreign folders."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from src.planning.plan_file import read_plan
from src.planning.settings import digest
from src.runs.staging import job_id
from tests.harness.program import journal_lines
from tests.harness.remote import Remote, RemoteRun, is_held


def planned_job(run: RemoteRun) -> tuple[Path, str]:
    """The job folder that a run will have on the host, and its controller's key for what it sends."""
    assert run.remote.program("task=plan", *run.overrides).code == 0
    plan = read_plan(run.folder / "plan.json")
    name = job_id(plan.items, plan.settings)
    return run.remote.root / "jobs" / name, digest("controller", str(run.folder / "job" / name), os.uname().nodename)


def test_half_staged_job_is_completed(remote: Remote) -> None:
    before = RemoteRun(remote, first=10, name="before", offline=True)
    before.assert_whole(before.to_its_end())
    frames = {p.name: p.read_bytes() for p in (remote.root / "frames").glob("*.png")}
    shutil.rmtree(remote.root)
    run = RemoteRun(remote, offline=True)
    job, key = planned_job(run)
    for folder in (job / f".incoming-{key}", job / ".incoming-of-another", job / "batches", job / "frames"):
        folder.mkdir(parents=True)
    (job / f".incoming-{key}" / "worker.pyz").write_text("PK half a wor")
    (job / f".incoming-{key}" / "batches").mkdir()
    (job / f".incoming-{key}" / "batches" / "00000-0.jsonl").write_text('{"id": "')
    incoming = remote.root / "frames" / f".incoming-{key}"
    incoming.mkdir(parents=True)
    whole, zeroed, *torn = frames
    (incoming / whole).write_bytes(frames[whole])
    (incoming / zeroed).write_bytes(b"\0" * len(frames[zeroed]))  # as a host that lost its power may leave it
    for name in torn:
        (incoming / name).write_bytes(frames[name][:100])
    run.assert_whole(run.resumed())
    assert {p.name: p.read_bytes() for p in (remote.root / "frames").glob("*.png")} == frames
    assert not remote.jobs()


def test_damaged_stored_frame_never_reaches_the_engine(remote: Remote) -> None:
    RemoteRun(remote, first=10, name="before", offline=True).to_its_end()
    for frame in (remote.root / "frames").glob("*.png"):
        frame.write_bytes(frame.read_bytes()[:1000])
    run = RemoteRun(remote, offline=True)
    run.to_its_end()
    sent = {f["sha256"] for r in journal_lines(run.folder / "journal.jsonl") for f in r["frames"]}
    staged = {
        f for batch in run.folder.glob("job/*/batches/*.jsonl") for line in journal_lines(batch) for f in line["frames"]
    }
    assert {f"frames/{sha}.png" for sha in sent} <= staged


def test_clean_removes_only_ended_jobs(remote: Remote) -> None:
    done = RemoteRun(remote, 2, "host.keep_job=true", name="done", first=40, offline=True)
    assert done.to_its_end().code == 0
    [ended] = remote.jobs()
    RemoteRun(remote).detached()
    [running] = set(remote.jobs()) - {ended}
    names = ("mine", "my notes", "-rf", "0123456789ABCDEF", "0" * 17, "0123456789abcdef copy of it")
    foreign = [remote.root / "jobs" / name for name in names]
    for folder in foreign:
        folder.mkdir()
        (folder / "job.json").write_text("{}")
    end = remote.program("task=clean", *remote.host, "yes=true")
    assert end.code == 0, end.err
    assert remote.jobs() == [running] and is_held(running)
    assert all((folder / "job.json").exists() for folder in foreign)
