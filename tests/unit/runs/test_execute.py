"""Carrying out a plan: what is asked, what is taken over, and what survives the death of each part."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.errors import EngineError, HostError, RunLocked
from src.media import render as rendering
from src.planning.plan import Plan
from src.planning.plan_file import write_plan
from src.planning.resolve import resolve
from src.run_folder import RunPaths, locked
from src.runs import staging
from src.runs.outcomes import KEPT, RunJournal
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from src.worker.journal import Journal, read_records
from src.worker.protocol import Outcome
from tests.conftest import Configure

ROOT = Path(__file__).resolve().parents[3]
MakePlan = Callable[..., Plan]
SLOW = ("engine.item_delay_s=0.15", "engine.in_flight=1")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """A run folder whose name would trip up a shell."""
    root = tmp_path / "run with 'quotes', ünïcode"
    root.mkdir()
    return RunPaths(root)


@pytest.fixture
def make_plan(tmp_path: Path, configure: Configure) -> MakePlan:
    """A function from prompts, given as {name: (prompt, video)}, and overrides to a plan with a cache of its own."""

    def made(prompts: dict[str, tuple[str, Path | None]], *overrides: str) -> Plan:
        file = tmp_path / "prompts.json"
        entries = [
            {"name": name, "prompt": prompt} | ({"video_path": str(video)} if video else {})
            for name, (prompt, video) in prompts.items()
        ]
        file.write_text(json.dumps(entries))
        config = configure(*overrides)
        own_cache = tmp_path / "cache"
        if not own_cache.exists() and (tokenizer := Path(config.cache_dir) / "tokenizer").exists():
            shutil.copytree(tokenizer, own_cache / "tokenizer")
        config.prompts, config.cache_dir = str(file), str(own_cache)
        return resolve(config)

    return made


def several(clips: Path, count: int) -> dict[str, tuple[str, Path | None]]:
    return {f"item{n}": (f"A boat, take {n}.", clips / "wide.mp4") for n in range(count)}


def job_of(paths: RunPaths) -> Path:
    [job] = paths.jobs.iterdir()
    return job


def answered(paths: RunPaths) -> list[str]:
    """Ids in the journal of the worker, in order."""
    return [r["id"] for r in read_records(job_of(paths) / "results.jsonl")]


def journalled(paths: RunPaths) -> list[str]:
    """Ids in the journal of the run, in order."""
    return [r["id"] for r in read_records(paths.journal)]


def starts(paths: RunPaths) -> int:
    """How many workers began in the run folder."""
    events = read_records(job_of(paths) / "events.jsonl")
    return sum(e["event"] == "phase" and e["phase"] == "loading" for e in events)


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def holder(paths: RunPaths) -> int | None:
    """Process id of the worker at work, if there is one."""
    for lock in paths.jobs.glob("*/lock"):
        text = lock.read_text()
        if text and Path(f"/proc/{text}/cmdline").exists() and str(lock.parent).encode() in _command(int(text)):
            return int(text)
    return None


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


class Controller:
    """`execute` in a process of its own, which can be killed."""

    CODE = """
import sys
from pathlib import Path
from src.runs.upsampling import execute
from src.run_folder import RunPaths
from src.planning.plan_file import read_plan
from src.timing.progress import Quiet
paths = RunPaths(Path(sys.argv[1]))
execute(read_plan(paths.plan), paths, Quiet())
"""

    def __init__(self, plan: Plan, paths: RunPaths) -> None:
        with open(paths.plan, "w", encoding="utf-8") as f:
            write_plan(plan, f)
        self.process = subprocess.Popen([sys.executable, "-c", self.CODE, paths.root], cwd=ROOT, stderr=subprocess.PIPE)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class InterruptedAt(Quiet):
    """A progress display during which the person presses Ctrl-C, after so many answers."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def step(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == "answers" and done >= self.answers:
            raise KeyboardInterrupt


# ------------------------------------------------------------------------------------------------------ how items end


def test_every_item_ends_in_one_state_with_its_reason(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan({
        "good": ("A boat.", clips / "wide.mp4"),
        "no prompt": ("", clips / "square.mp4"),
        "no video": ("A boat.", None),
        "missing": ("A boat.", clips / "missing.mp4"),
        "sound": ("A boat.", clips / "sound.m4a"),
        "playlist": ("A boat.", clips / "text.mp4"),
        "nothing left": ("  ", clips / "missing.mp4"),
    })  # fmt: skip
    outcomes = execute(plan, paths, Quiet())
    ends = {item.name: outcomes[item.id] for item in plan.items}
    assert {name: end.state for name, end in ends.items()} == {
        "good": "upsampled", "no prompt": "upsampled", "no video": "kept", "missing": "kept", "sound": "kept",
        "playlist": "kept", "nothing left": "failed",
    }  # fmt: skip
    for name, words in {"no video": "no frames", "missing": "no such file", "sound": "no video stream"}.items():
        assert words in ends[name].reason
    assert all(end.reason == "" and end.text for end in ends.values() if end.state == "upsampled")
    assert all(end.reason and end.text is None for end in ends.values() if end.state != "upsampled")
    assert sorted(journalled(paths)) == sorted(outcomes)


def test_only_items_that_can_be_served_reach_the_worker(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan({"good": ("A boat.", clips / "wide.mp4"), "missing": ("A boat.", clips / "missing.mp4")})
    execute(plan, paths, Quiet())
    assert answered(paths) == [plan.items[0].id]


def test_a_plan_without_anything_to_ask_starts_no_worker(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    execute(make_plan({"missing": ("A boat.", clips / "missing.mp4")}), paths, Quiet())
    assert not paths.jobs.exists()


def test_items_that_ask_the_same_are_asked_once(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    copy = shutil.copyfile(clips / "wide.mp4", paths.root / "the same.mp4")
    plan = make_plan({
        "one": ("A boat.", clips / "wide.mp4"), "two": ("A boat.", copy), "other": ("A car.", clips / "wide.mp4"),
    })  # fmt: skip
    outcomes = execute(plan, paths, Quiet())
    assert len(answered(paths)) == 2
    assert {outcomes[item.id].state for item in plan.items} == {"upsampled"}


def test_a_clip_that_vanishes_after_planning_costs_its_own_items_only(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    passing = shutil.copyfile(clips / "other.mp4", paths.root / "passing.mp4")
    plan = make_plan({"gone": ("A boat.", passing), "good": ("A boat.", clips / "wide.mp4")})
    passing.unlink()
    outcomes = execute(plan, paths, Quiet())
    assert [outcomes[item.id].state for item in plan.items] == ["kept", "upsampled"]
    assert "passing.mp4" in outcomes[plan.items[0].id].reason


def test_with_text_only_a_clip_that_vanished_is_noted_and_the_engine_asked_without_it(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    passing = shutil.copyfile(clips / "other.mp4", paths.root / "passing.mp4")
    plan = make_plan({"gone": ("A boat.", passing)}, "video.on_bad_video=text_only")
    passing.unlink()
    [outcome] = execute(plan, paths, Quiet()).values()
    assert outcome.note.startswith("from the text only")
    assert "passing.mp4" in outcome.note
    assert outcome.frames == []


# ------------------------------------------------------------------------------------------------------------- resume


def test_a_finished_run_asks_nothing_again(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(several(clips, 5))
    first = execute(plan, paths, Quiet())
    second = execute(plan, paths, Quiet())
    assert second == first
    assert (len(answered(paths)), len(journalled(paths)), starts(paths)) == (5, 5, 1)


def test_answers_that_a_worker_gave_while_nobody_watched_are_taken_over(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 5))
    first = execute(plan, paths, Quiet())
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # the controller died here, in the middle of a write
    second = execute(plan, paths, Quiet())
    assert second == first
    assert sorted(journalled(paths)) == sorted(first)
    assert starts(paths) == 1


def test_only_what_is_missing_is_asked(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(several(clips, 6))
    first = execute(plan, paths, Quiet())
    lost = {item.id for item in plan.items[4:]}
    for file in (paths.journal, job_of(paths) / "results.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if json.loads(line)["id"] not in lost))
    before = answered(paths)
    second = execute(plan, paths, Quiet())
    assert set(answered(paths)[len(before) :]) == lost
    assert {i: o.text for i, o in second.items()} == {i: o.text for i, o in first.items()}


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_a_torn_last_line_in_every_journal_is_survived(
    paths: RunPaths, clips: Path, make_plan: MakePlan, cut: int
) -> None:
    plan = make_plan(several(clips, 3))
    execute(plan, paths, Quiet())
    for file in (paths.journal, job_of(paths) / "results.jsonl", job_of(paths) / "events.jsonl"):
        os.truncate(file, max(0, file.stat().st_size - cut))
    outcomes = execute(plan, paths, Quiet())
    assert {o.state for o in outcomes.values()} == {"upsampled"}
    assert Counter(answered(paths)) == Counter(journalled(paths)) == Counter(list(outcomes))


def test_a_controller_killed_midway_is_followed_by_one_that_finds_the_worker_running(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 12), *SLOW)
    controller = Controller(plan, paths)
    wait_for(lambda: paths.jobs.exists() and any(paths.jobs.iterdir()) and len(answered(paths)) >= 2)
    controller.kill()
    seen = len(journalled(paths))
    wait_for(lambda: len(answered(paths)) > seen)  # it goes on without us
    outcomes = execute(plan, paths, Quiet())
    assert starts(paths) == 1
    assert Counter(answered(paths)) == Counter(journalled(paths)) == Counter(list(outcomes))
    assert len(outcomes) == 12


def test_a_worker_killed_midway_is_started_again_and_every_item_ends_once(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 12), *SLOW)
    killed: list[int] = []

    def kill_twice() -> None:
        for goal in (2, 6):
            wait_for(
                lambda goal=goal: paths.jobs.exists() and len(answered(paths)) >= goal and holder(paths) is not None
            )  # type: ignore[misc]
            pid = holder(paths)
            assert pid
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            wait_for(lambda pid=pid: holder(paths) not in (None, pid))  # type: ignore[misc]

    killer = threading.Thread(target=kill_twice)
    killer.start()
    outcomes = execute(plan, paths, Quiet())
    killer.join()
    assert (len(killed), starts(paths)) == (2, 3)
    assert Counter(answered(paths)) == Counter(journalled(paths)) == Counter(list(outcomes))
    assert {o.state for o in outcomes.values()} == {"upsampled"}


def test_an_interrupt_writes_down_what_was_in_flight_and_the_next_start_does_the_rest(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 8), *SLOW)
    with pytest.raises(KeyboardInterrupt):
        execute(plan, paths, InterruptedAt(3))
    assert holder(paths) is None
    first = journalled(paths)
    assert 3 <= len(first) < 8
    assert sorted(first) == sorted(answered(paths))
    end = json.loads((job_of(paths) / "exit.json").read_text())
    assert end["state"] == "cancelled"
    assert set(end["not_started"]) <= {item.id for item in plan.items} - set(first)
    outcomes = execute(plan, paths, Quiet())
    assert Counter(answered(paths)) == Counter(journalled(paths)) == Counter(item.id for item in plan.items)
    assert {o.state for o in outcomes.values()} == {"upsampled"}


def test_a_job_of_another_version_of_the_plan_is_taken_over_where_items_are_the_same(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    execute(make_plan(several(clips, 3)), paths, Quiet())
    plan = make_plan(several(clips, 5))
    paths.journal.unlink()
    outcomes = execute(plan, paths, Quiet())
    assert {item.id for item in plan.items} <= outcomes.keys()
    given = Counter(r["id"] for results in paths.jobs.glob("*/results.jsonl") for r in read_records(results))
    assert given == Counter({item.id: 1 for item in plan.items})


# -------------------------------------------------------------------------------------------------------- the cache


def test_reuse_takes_answers_of_earlier_runs_and_asks_only_what_changed(
    tmp_path: Path, clips: Path, make_plan: MakePlan
) -> None:
    one, two = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "two")
    for paths in (one, two):
        paths.root.mkdir()
    first = execute(make_plan(several(clips, 4)), one, Quiet())
    changed = several(clips, 4) | {"item2": ("Another boat.", clips / "wide.mp4")}
    plan = make_plan(changed, "reuse=true")
    second = execute(plan, two, Quiet())
    assert answered(two) == [plan.items[2].id]
    for n in (0, 1, 3):
        assert second[plan.items[n].id] == first[plan.items[n].id]
    assert Counter(journalled(two)) == Counter(list(second))


def test_reuse_of_everything_starts_no_worker(tmp_path: Path, clips: Path, make_plan: MakePlan) -> None:
    one, two = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "two")
    for paths in (one, two):
        paths.root.mkdir()
    first = execute(make_plan(several(clips, 3)), one, Quiet())
    assert execute(make_plan(several(clips, 3), "reuse=true"), two, Quiet()) == first
    assert not two.jobs.exists()


def test_without_reuse_everything_is_asked_again(tmp_path: Path, clips: Path, make_plan: MakePlan) -> None:
    one, two = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "two")
    for paths in (one, two):
        paths.root.mkdir()
        execute(make_plan(several(clips, 2)), paths, Quiet())
    assert sorted(answered(one)) == sorted(answered(two))


def test_a_kept_prompt_is_asked_again_with_reuse(tmp_path: Path, make_plan: MakePlan) -> None:
    one, two = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "two")
    for paths in (one, two):
        paths.root.mkdir()
        [outcome] = execute(make_plan({"no video": ("A boat.", None)}, "reuse=true"), paths, Quiet()).values()
        assert outcome.state == "kept"
        assert len(answered(paths)) == 1


@pytest.mark.parametrize("damage", ["rubbish", "folder"])
def test_a_cache_that_cannot_be_used_does_not_cost_the_answers(
    paths: RunPaths, clips: Path, make_plan: MakePlan, damage: str
) -> None:
    plan = make_plan(several(clips, 2))
    cache = Path(plan.settings.cache_dir)
    cache.mkdir(exist_ok=True)
    if damage == "rubbish":
        (cache / "answers.sqlite").write_bytes(b"no database" * 1000)
    else:
        (cache / "answers.sqlite").mkdir()
    outcomes = execute(plan, paths, Quiet())
    assert {o.state for o in outcomes.values()} == {"upsampled"}


# ---------------------------------------------------------------------------------------------------------- failures


def test_a_package_called_src_where_the_person_stands_is_not_taken_for_ours(
    paths: RunPaths, clips: Path, make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(several(clips, 1))
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    outcomes = execute(plan, paths, Quiet())
    assert {o.state for o in outcomes.values()} == {"upsampled"}


def test_a_worker_that_cannot_be_started_is_an_error_that_names_the_program(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 1), "engine=vllm", "model=tiny_random", "worker.python=/no/such/python")
    with pytest.raises(HostError, match="/no/such/python"):
        execute(plan, paths, Quiet())


def test_a_worker_that_dies_at_once_every_time_is_given_up_with_its_last_words(
    paths: RunPaths, clips: Path, make_plan: MakePlan, tmp_path: Path
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'the disk is on fire' >&2\nexit 1\n")
    dying.chmod(0o755)
    plan = make_plan(several(clips, 1), "engine=vllm", "model=tiny_random", f"worker.python={dying}")
    with pytest.raises(HostError, match="the disk is on fire"):
        execute(plan, paths, Quiet())
    assert (job_of(paths) / "worker.log").read_text().count("the disk is on fire") <= 5


def test_an_engine_that_cannot_be_loaded_is_an_engine_error_and_what_ended_before_stays(
    paths: RunPaths, clips: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(several(clips, 2), "engine=vllm", "model=tiny_random", f"worker.python={sys.executable}")
    done = plan.items[0].id
    job = paths.jobs / "earlier"
    job.mkdir(parents=True)
    answer = Outcome(done, "upsampled", text="An answer of an earlier job.")
    record: dict[str, Any] = {name: getattr(answer, name) for name in Outcome.__slots__}
    (job / "results.jsonl").write_text(json.dumps(record | {"step": 0}) + "\n")
    with pytest.raises(EngineError, match="vLLM"):
        execute(plan, paths, Quiet())
    assert journalled(paths) == [done]


def test_a_worker_that_got_tired_of_waiting_for_slow_clips_is_no_failure(
    paths: RunPaths, clips: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(several(clips, 2))
    ready, over, render = threading.Event(), threading.Event(), rendering.render
    monkeypatch.setattr(staging, "LINGER_S", 0.05)
    monkeypatch.setattr(
        staging, "render", lambda *a, **k: (ready.wait(60), render(*a, **k))[1]
    )  # a clip that takes long

    def release() -> None:
        wait_for(lambda: over.is_set() or (bool(list(paths.jobs.glob("*/events.jsonl"))) and starts(paths) > 5))
        ready.set()

    releaser = threading.Thread(target=release)
    releaser.start()
    try:
        outcomes = execute(plan, paths, Quiet())
    finally:
        over.set()
        releaser.join()
    assert {o.state for o in outcomes.values()} == {"upsampled"}


# --------------------------------------------------------------------------------------------------------------- lock


def test_a_run_folder_is_held_by_one_process(paths: RunPaths) -> None:
    code = (
        "import sys; from pathlib import Path; from src.run_folder import RunPaths, locked\n"
        "with locked(RunPaths(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, paths.root], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(RunLocked, match="another process"), locked(paths):
        pass
    other.kill()
    other.communicate()
    with locked(paths):  # the death of its holder frees it
        pass


def test_a_lock_is_freed_by_an_error_inside_it(paths: RunPaths) -> None:
    with pytest.raises(ZeroDivisionError), locked(paths):
        raise ZeroDivisionError
    with locked(paths):
        pass


def test_a_worker_does_not_hold_the_lock_of_its_run(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(several(clips, 8), *SLOW)
    code = Controller.CODE.replace(
        "execute(read", "from src.run_folder import locked\nlocked(paths).__enter__()\nexecute(read"
    )
    with open(paths.plan, "w", encoding="utf-8") as f:
        write_plan(plan, f)
    controller = subprocess.Popen([sys.executable, "-c", code, paths.root], cwd=ROOT)
    wait_for(lambda: paths.jobs.exists() and any(paths.jobs.iterdir()) and holder(paths) is not None)
    controller.kill()
    controller.wait()
    assert holder(paths) is not None
    with locked(paths):
        execute(plan, paths, Quiet())


def test_ctrl_c_while_an_outcome_goes_to_disk_does_not_write_it_twice(
    paths: RunPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RunJournal(paths.journal)
    whole = Journal.append

    def interrupted(self: Journal, record: dict[str, Any]) -> None:
        whole(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.add(Outcome("a", KEPT))
    assert not journal.add(Outcome("a", KEPT)) and journal.add(Outcome("b", KEPT))
    journal.close()
    assert [record["id"] for record in read_records(paths.journal)] == ["a", "b"]
