"""Runs over SSH: what travels, whom the program trusts, and what a login that fails looks like."""

from __future__ import annotations

import json
import shutil
import subprocess
import time

from tests.harness.program import journal_lines, quoted
from tests.harness.remote import PYTHON, Remote, RemoteRun
from tests.harness.sshd import Sshd


def test_run_leaves_only_frames_behind(remote: Remote) -> None:
    first = RemoteRun(remote, 10, offline=True)
    first.assert_whole(first.to_its_end())
    assert list((remote.root / "jobs").iterdir()) == []
    frames = remote.frames()
    assert len(frames) == len({f["sha256"] for r in journal_lines(first.folder / "journal.jsonl") for f in r["frames"]})
    assert remote.workers() == []
    [start] = json.loads((first.folder / "timings.json").read_text())["starts"]
    sent = sum(file.stat().st_size for file in first.folder.glob("job/*/frames/*"))
    phases = start["phases"]
    assert set(phases) >= {"worker starts", "hints", "sending", "loading", "answers", "fetching"}
    assert phases["sending"]["amount"] >= sent > 0  # the stream has headers
    assert phases["answers"]["amount"] == 10
    assert all(0 <= p["begin_s"] <= p["end_s"] <= start["seconds"] for p in phases.values())
    second = RemoteRun(remote, first=10, name="second")  # over the same clips, and with the fake server
    second.assert_whole(second.to_its_end())
    assert frames and remote.frames() == frames  # no frame was sent again
    for task in ("task=trust", "task=clean", "task=status"):  # tasks that are no runs leave no run folder
        assert remote.program(task, *remote.host).code == 0
    assert {p.name for p in (remote.desk / "outputs").iterdir()} <= {".tasks", ".cache"}


def test_unknown_host_gets_nothing_until_trusted(remote: Remote) -> None:
    remote.known_hosts.unlink()
    run = RemoteRun(remote, 2, offline=True)
    end = run.to_its_end()
    shown = subprocess.run(
        ["ssh-keygen", "-lf", remote.sshd.host_key], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert end.code == 5, end.err
    assert shown.startswith("SHA256:") and shown in end.err
    assert "task=trust host=ssh" in end.err
    assert not remote.root.exists()
    assert remote.program("task=trust", *remote.host).code == 2  # no terminal to ask on, and no yes=true
    assert not remote.known_hosts.exists()
    trusted = remote.program("task=trust", *remote.host, "yes=true")
    assert trusted.code == 0 and shown in trusted.out, trusted.err
    run.assert_whole(run.resumed())


def test_changed_host_key_is_refused(remote: Remote) -> None:
    known = remote.known_hosts.read_text()
    remote.sshd.kill()
    Sshd.new_key(remote.sshd.host_key)
    remote.sshd.start()
    for end in (RemoteRun(remote, 2).to_its_end(), remote.program("task=trust", *remote.host, "yes=true")):
        assert end.code == 5, end.err
        assert "CHANGED" in end.err
    assert remote.known_hosts.read_text() == known
    assert not remote.root.exists()


def test_login_that_fails_is_tried_once(remote: Remote) -> None:
    stranger = remote.folder / "stranger"
    Sshd.new_key(stranger)
    log = remote.sshd.folder / "sshd.log"
    before = log.read_text().count("authenticating user")
    started = time.monotonic()
    end = RemoteRun(remote, 2, f"host.key_file={quoted(stranger)}").to_its_end()
    assert end.code == 5, end.err
    assert "127.0.0.1" in end.err and "Traceback" not in end.err
    assert log.read_text().count("authenticating user") == before + 1
    for content in (None, "no key at all\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"):
        file = remote.folder / "a key file"
        if content is not None:
            file.write_text(content)
        end = RemoteRun(remote, 2, f"host.key_file={quoted(file)}").to_its_end()
        assert end.code == 5 and "Traceback" not in end.err, end.err
    assert time.monotonic() - started < 30


def test_unreachable_host_is_reported_at_once(remote: Remote) -> None:
    started = time.monotonic()
    end = RemoteRun(remote, 2, "host.address=no-such-host.invalid").to_its_end()
    assert end.code == 4, end.err
    assert "no-such-host.invalid" in end.err
    remote.sshd.kill()
    end = RemoteRun(remote, 2).to_its_end()
    assert end.code in (4, 6), end.err
    assert "cannot be reached" in end.err
    assert time.monotonic() - started < 30


def test_shells_never_interpret_foreign_text(remote: Remote) -> None:
    touched = remote.folder / "touched"
    words = [
        f"$(touch {touched})", f"`touch {touched}`", f"'; touch {touched}; '", f'"; touch {touched}; "', f"a\n touch {touched}",
        "-rf", "--checkpoint-action=exec=id", "../../../etc/passwd", "läuft 雨 \u202e", "*", "%s%n", "~", "a\\' \"b",
    ]  # fmt: skip
    remote.root = remote.folder / f"root with 'quotes' $(touch {touched}) `id`; -x" / "-n"
    remote.root.mkdir(parents=True)
    python = remote.folder / "a python"
    python.symlink_to(PYTHON)
    run = RemoteRun(remote, 0, f"host.name={quoted(words[0])}", name="-run 'it' $(id)")
    items = []
    for n, word in enumerate(words):
        clip = remote.folder / f"-clip {n} $(id) 'x'; .mp4"
        shutil.copy(remote.clips / "wide.mp4", clip)
        items.append({"name": word, "prompt": f"{word} {n}", "video_path": str(clip)})
    prompts = remote.folder / "words.json"
    prompts.write_text(json.dumps(items))
    run.assert_whole(
        remote.program(*run.overrides, f"prompts={quoted(prompts)}", f"model.name={quoted(words[2])}",
                       f"worker.python={quoted(python)}")
    )  # fmt: skip
    assert len(run.items) == len(words)
    assert not touched.exists()
    assert list((remote.root / "jobs").iterdir()) == []
