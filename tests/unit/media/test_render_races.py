"""The cache of hints when processes are killed, and when several render the same hint at once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.media import frames
from src.media import render as rendering
from src.media.hint import hint_key
from src.media.render import render
from src.media.video import Video, probe
from src.worker.records import to_line
from tests.harness.clips import make_clip
from tests.unit.media.conftest import LIMITS, assert_complete, planned_hint

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Video:
    return probe(make_clip(tmp_path_factory.mktemp("clips") / "a.mp4", size=(96, 54), fps=24, seconds=1), LIMITS)


# Forks a process per kill. Each renders into a folder of its own and ends, as if killed, before the step of its number: a step
# is an operation on a file below that folder that Python audits. The last one runs to its end.
_KILL_AT_EVERY_STEP = """
import os, sys
from pathlib import Path
from src.media.hint import Hint
from src.media.render import render
from src.media.video import Video
from src.worker.records import from_line
import av, PIL.Image
video, hint, folder = from_line(Video, sys.argv[1]), from_line(Hint, sys.argv[2]), Path(sys.argv[3])
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

def run(number):
    steps = 0
    def audit(event, arguments):
        nonlocal steps
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            steps += 1
            if steps > number:
                os._exit(9)
    sys.addaudithook(audit)
    render(video, hint, folder / str(number), with_video=True)
    os._exit(0)

for number in range(100):
    if (pid := os.fork()) == 0:
        run(number)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        break
"""


def test_killed_at_any_step_entries_are_complete(tmp_path: Path, video: Video) -> None:
    hint = planned_hint(video)
    arguments = [to_line(video), to_line(hint), str(tmp_path)]
    subprocess.run([sys.executable, "-c", _KILL_AT_EVERY_STEP, *arguments], check=True, cwd=ROOT, timeout=60)
    folders = sorted(tmp_path.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) > 5  # frames, video, manifest, renames
    found = [(folder / hint_key(video, hint)).exists() for folder in folders]
    assert found == sorted(found) and found[-1] and not found[0]
    gone = replace(video, path=str(tmp_path / "gone.mp4"))
    for folder, exists in zip(folders, found, strict=True):
        # An entry that exists answers without the clip; otherwise the next process renders it.
        assert_complete(render(gone if exists else video, hint, folder, with_video=True))


def test_killed_while_adding_video_entry_is_complete(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = planned_hint(video)
    before = render(video, hint, tmp_path, with_video=False)

    class Killed(BaseException):
        pass

    rename, unlink = os.replace, os.unlink
    for survived in range(6):  # killed at every step that changes a folder of the cache, one after another
        steps_left = survived

        def step() -> None:
            nonlocal steps_left
            steps_left -= 1
            if steps_left < 0:
                raise Killed

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", lambda *a, **k: (step(), rename(*a, **k)))
            patched.setattr(os, "unlink", lambda *a, **k: (step(), unlink(*a, **k)))
            with suppress(Killed):
                render(video, hint, tmp_path, with_video=True)
        assert_complete(render(video, hint, tmp_path, with_video=False))
    assert before.frames == render(video, hint, tmp_path, with_video=True).frames


def test_parallel_renders_leave_one_entry(tmp_path: Path, video: Video) -> None:
    hint = planned_hint(video)
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(lambda n: render(video, hint, tmp_path, with_video=True), range(8)))
    assert len({r.folder for r in rendered}) == 1
    assert len({r.frames for r in rendered}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [hint_key(video, hint)]
    assert_complete(rendered[0])


def test_parallel_completions_leave_one_entry(tmp_path: Path, video: Video) -> None:
    for fps in (2.0, 3.0):
        hint = planned_hint(video, fps=fps)
        render(video, hint, tmp_path, with_video=False)
        with ThreadPoolExecutor(8) as pool:
            rendered = list(pool.map(lambda _, h=hint: render(video, h, tmp_path, with_video=True), range(8)))  # type: ignore[misc]
        assert len({r.frames for r in rendered}) == 1
        assert_complete(rendered[0])


def test_video_is_there_when_another_was_faster(tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch) -> None:
    """The faster one wanted no video."""
    hint, read_frames = planned_hint(video), frames.read_frames

    def overtaken(*given: Any) -> Any:
        monkeypatch.setattr(rendering, "read_frames", read_frames)
        render(video, hint, tmp_path, with_video=False)  # another process, in the meantime
        return read_frames(*given)

    monkeypatch.setattr(rendering, "read_frames", overtaken)
    rendered = render(video, hint, tmp_path, with_video=True)
    assert rendered.video_path
    assert_complete(rendered)
