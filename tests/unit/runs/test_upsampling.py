"""One plan to its end: how items end, what a resumed run asks, what is reused. Workers run in this process."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from src.errors import EngineError, HostError
from src.hosts.job_folder import JobPaths, open_job
from src.hosts.job_handle import JobHandle
from src.media import render as rendering
from src.planning import observed_limits
from src.run_folder import RunPaths
from src.runs import staging
from src.runs.answer_cache import AnswerCache
from src.runs.pusher import Pusher
from src.runs.upsampling import execute
from src.timing.progress import Quiet
from src.worker.engines.engine import Answer, ItemFailed, Refused, Request
from src.worker.protocol import Outcome
from src.worker.records import to_line
from tests.harness.fake_engine import FakeEngine, distinct_reply
from tests.harness.in_process_job import InProcessJob
from tests.harness.records import ids_in
from tests.unit.runs.conftest import MakePlan, job_of, takes


def answered(paths: RunPaths) -> list[str]:
    """Ids in the worker's journal, in order."""
    return ids_in(job_of(paths).results)


def starts(workers: list[InProcessJob]) -> int:
    return sum(worker.starts for worker in workers)


# ------------------------------------------------------------------------------------------------------ how items end


@pytest.mark.usefixtures("workers")
def test_every_item_ends_with_its_reason(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
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
    assert sorted(ids_in(paths.journal)) == sorted(outcomes)


@pytest.mark.usefixtures("workers")
def test_unusable_items_never_reach_the_worker(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan({"good": ("A boat.", clips / "wide.mp4"), "missing": ("A boat.", clips / "missing.mp4")})
    execute(plan, paths, Quiet())
    assert answered(paths) == [plan.items[0].id]


def test_nothing_to_ask_starts_no_worker(
    paths: RunPaths, clips: Path, make_plan: MakePlan, workers: list[InProcessJob]
) -> None:
    execute(make_plan({"missing": ("A boat.", clips / "missing.mp4")}), paths, Quiet())
    assert workers == [] and not paths.jobs.exists()


@pytest.mark.usefixtures("workers")
def test_equal_items_are_asked_once(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    copy = shutil.copyfile(clips / "wide.mp4", paths.root / "the same.mp4")
    plan = make_plan({
        "one": ("A boat.", clips / "wide.mp4"), "two": ("A boat.", copy), "other": ("A car.", clips / "wide.mp4"),
    })  # fmt: skip
    outcomes = execute(plan, paths, Quiet())
    assert len(answered(paths)) == 2
    assert {outcomes[item.id].state for item in plan.items} == {"upsampled"}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("text_only", [False, True])
def test_vanished_clip_affects_its_items_only(
    paths: RunPaths, clips: Path, make_plan: MakePlan, text_only: bool
) -> None:
    passing = shutil.copyfile(clips / "other.mp4", paths.root / "passing.mp4")
    prompts = {"gone": ("A boat.", passing), "good": ("A boat.", clips / "wide.mp4")}
    plan = make_plan(prompts, *(["video.on_bad_video=text_only"] if text_only else []))
    passing.unlink()
    outcomes = execute(plan, paths, Quiet())
    gone, good = (outcomes[item.id] for item in plan.items)
    assert (gone.state, good.state) == ("kept", "upsampled")
    if text_only:
        assert gone.note.startswith("from the text only") and "passing.mp4" in gone.note
        assert gone.frames == ()
    else:
        assert "passing.mp4" in gone.reason


# ------------------------------------------------------------------------------------------------------------- resume


def test_finished_run_asks_nothing_again(
    paths: RunPaths, clips: Path, make_plan: MakePlan, workers: list[InProcessJob]
) -> None:
    plan = make_plan(takes(clips, 3))
    first = execute(plan, paths, Quiet())
    before = starts(workers)
    assert execute(plan, paths, Quiet()) == first
    assert starts(workers) == before
    assert (len(answered(paths)), len(ids_in(paths.journal))) == (3, 3)


def test_answers_given_while_detached_are_taken(
    paths: RunPaths, clips: Path, make_plan: MakePlan, workers: list[InProcessJob]
) -> None:
    plan = make_plan(takes(clips, 4))
    first = execute(plan, paths, Quiet())
    lines = paths.journal.read_bytes().splitlines(keepends=True)
    paths.journal.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # the controller died in the middle of a write
    before = starts(workers)
    assert execute(plan, paths, Quiet()) == first
    assert sorted(ids_in(paths.journal)) == sorted(first)
    assert starts(workers) == before


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("finished", [True, False])
def test_only_missing_items_are_asked(paths: RunPaths, clips: Path, make_plan: MakePlan, finished: bool) -> None:
    plan = make_plan(takes(clips, 4))
    first = dict(execute(plan, paths, Quiet()))
    lost = {item.id for item in plan.items[2:]}
    job = job_of(paths)
    if not finished:
        job.finished.unlink()
    for file in (paths.journal, job.results):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if json.loads(line)["id"] not in lost))
    second = execute(plan, paths, Quiet())
    assert len(list(paths.jobs.iterdir())) == 1 + finished  # a finished job is not started again
    given = [i for results in paths.jobs.glob("*/results.jsonl") for i in ids_in(results)]
    assert Counter(given) == Counter(item.id for item in plan.items)
    assert {i: o.text for i, o in second.items()} == {i: o.text for i, o in first.items()}


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("cut", [1, 7, 200])
def test_torn_journals_are_survived(paths: RunPaths, clips: Path, make_plan: MakePlan, cut: int) -> None:
    plan = make_plan(takes(clips, 2))
    execute(plan, paths, Quiet())
    job = job_of(paths)
    job.finished.unlink()
    for file in (paths.journal, job.results, job.events):
        os.truncate(file, max(0, file.stat().st_size - cut))
    outcomes = execute(plan, paths, Quiet())
    assert {o.state for o in outcomes.values()} == {"upsampled"}
    assert Counter(answered(paths)) == Counter(ids_in(paths.journal)) == Counter(list(outcomes))


@pytest.mark.usefixtures("workers")
def test_answers_of_an_older_plan_are_taken(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    execute(make_plan(takes(clips, 2)), paths, Quiet())
    plan = make_plan(takes(clips, 4))
    paths.journal.unlink()
    outcomes = execute(plan, paths, Quiet())
    assert {item.id for item in plan.items} <= outcomes.keys()
    given = Counter(i for results in paths.jobs.glob("*/results.jsonl") for i in ids_in(results))
    assert given == Counter({item.id: 1 for item in plan.items})


@pytest.mark.usefixtures("workers")
def test_interrupted_cleanup_is_finished_later(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(takes(clips, 1))
    execute(plan, paths, Quiet())
    job_of(paths).finished.unlink()
    execute(plan, paths, Quiet())
    assert job_of(paths).finished.exists()


# ------------------------------------------------------------------------------------------------------ refused, failed


UseEngine = Callable[[FakeEngine], None]


def refuse_first(request: Request) -> Answer:
    """Refuse each item once, as an engine with less room than planned does."""
    if request.item.step == 0:
        raise Refused("too long", "too_long", 700, 900)
    return distinct_reply(request)


def test_refused_item_ends_with_a_smaller_hint(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine
) -> None:
    use_engine(FakeEngine(refuse_first))
    plan = make_plan(takes(clips, 2))
    outcomes = execute(plan, paths, Quiet())
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}
    assert all("refused by the engine" in outcome.note for outcome in outcomes.values())
    assert Counter(ids_in(paths.journal)) == Counter(item.id for item in plan.items)


@pytest.mark.parametrize("change", ["flipped", "cut", "removed"])
def test_damaged_frames_are_sent_again(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine, change: str
) -> None:
    """Two items share a clip; its frames are damaged on disk, those in the cache too, before the second is asked."""

    def damaging(request: Request) -> Answer:
        if not done:
            for frame in job_of(paths).frames.iterdir():
                done.append(frame.name)
                data = frame.read_bytes()
                frame.write_bytes(data[:99] if change == "cut" else data[:-1] + bytes([data[-1] ^ 1]))
                if change == "removed":
                    frame.unlink()
        return distinct_reply(request)

    done: list[str] = []
    use_engine(FakeEngine(damaging))
    plan = make_plan({"a": ("A boat.", clips / "wide.mp4"), "b": ("A car.", clips / "hd.mp4")})
    outcomes = execute(plan, paths, Quiet())
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}, outcomes
    for outcome in outcomes.values():
        assert all(f"{frame.sha256}.png" in done for frame in outcome.frames)
    assert {file.name for file in job_of(paths).frames.iterdir()} >= {f"{f.sha256}.png" for f in outcome.frames}


def test_refused_limit_is_remembered(paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine) -> None:
    use_engine(FakeEngine(refuse_first))
    plan = make_plan(takes(clips, 1))
    execute(plan, paths, Quiet())
    known = observed_limits.read(observed_limits.limits_file(Path(plan.settings.cache_dir)))
    assert [limit.refused for limit in known.values()] == [901]


def test_refused_item_is_kept_without_shrinking(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine
) -> None:
    use_engine(FakeEngine(refuse_first))
    [outcome] = execute(make_plan(takes(clips, 1), "upsample.shrink=false"), paths, Quiet()).values()
    assert (outcome.state, outcome.reason) == ("kept", "the engine refused it: too long")


@pytest.mark.parametrize("finished", [True, False])
def test_failed_items_are_retried_on_request(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine, finished: bool
) -> None:
    plan = make_plan(takes(clips, 3))
    broken = plan.items[1].id

    def fail_one(request: Request) -> Answer:
        if request.item.id == broken:
            raise ItemFailed("broken")
        return distinct_reply(request)

    use_engine(FakeEngine(fail_one))
    assert execute(plan, paths, Quiet())[broken].state == "failed"
    if finished:
        assert execute(plan, paths, Quiet())[broken].state == "failed"  # not without a request
    else:
        job_of(paths).finished.unlink()  # the controller was killed before it cleaned up
    engine = FakeEngine()
    use_engine(engine)
    outcomes = execute(plan, paths, Quiet(), retry_failed=True)
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}
    assert engine.asked == [broken]
    assert execute(plan, paths, Quiet()) == outcomes


def _fails(request: Request) -> Answer:
    raise ItemFailed("broken")


def test_retry_is_not_answered_by_an_old_journal(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine
) -> None:
    """Of a member that was lost and not cleaned up: its batches were withdrawn, and its answers are there."""
    plan = make_plan(takes(clips, 1))

    use_engine(FakeEngine(_fails))
    execute(plan, paths, Quiet())
    job = job_of(paths)
    job.finished.unlink()
    for batch in job.batches.glob("*.jsonl"):
        batch.rename(f"{batch}.withdrawn")
    use_engine(FakeEngine())
    assert {outcome.state for outcome in execute(plan, paths, Quiet(), retry_failed=True).values()} == {"upsampled"}


def test_retry_uses_the_jobs_that_wait_for_it(
    paths: RunPaths, clips: Path, make_plan: MakePlan, use_engine: UseEngine
) -> None:
    """Those of task=manifest, whose workers were started already: a job that holds nothing ends nothing as before."""
    plan = make_plan(takes(clips, 2))

    use_engine(FakeEngine(_fails))
    execute(plan, paths, Quiet())
    waiting = staging.job_folder(plan, paths.jobs)
    open_job(waiting, staging.upsample_job(plan))
    use_engine(FakeEngine())
    outcomes = execute(plan, paths, Quiet(), retry_failed=True)
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}
    assert waiting.finished.exists() and len(list(paths.jobs.iterdir())) == 2


# -------------------------------------------------------------------------------------------------------- the cache


def two_runs(tmp_path: Path) -> tuple[RunPaths, RunPaths]:
    one, two = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "two")
    for paths in (one, two):
        paths.root.mkdir()
    return one, two


@pytest.mark.usefixtures("workers")
def test_reuse_asks_only_what_changed(tmp_path: Path, clips: Path, make_plan: MakePlan) -> None:
    one, two = two_runs(tmp_path)
    first = execute(make_plan(takes(clips, 3)), one, Quiet())
    changed = takes(clips, 3) | {"item1": ("Another boat.", clips / "wide.mp4")}
    plan = make_plan(changed, "reuse=true")
    second = execute(plan, two, Quiet())
    assert answered(two) == [plan.items[1].id]
    for n in (0, 2):
        assert second[plan.items[n].id] == first[plan.items[n].id]
    assert Counter(ids_in(two.journal)) == Counter(list(second))


@pytest.mark.usefixtures("workers")
def test_reuse_of_everything_starts_no_worker(tmp_path: Path, clips: Path, make_plan: MakePlan) -> None:
    one, two = two_runs(tmp_path)
    first = execute(make_plan(takes(clips, 2)), one, Quiet())
    assert execute(make_plan(takes(clips, 2), "reuse=true"), two, Quiet()) == first
    assert not two.jobs.exists()


@pytest.mark.usefixtures("workers")
def test_without_reuse_everything_is_asked(tmp_path: Path, clips: Path, make_plan: MakePlan) -> None:
    one, two = two_runs(tmp_path)
    for paths in (one, two):
        execute(make_plan(takes(clips, 2)), paths, Quiet())
    assert sorted(answered(one)) == sorted(answered(two))


@pytest.mark.usefixtures("workers")
def test_reuse_asks_kept_prompts_again(tmp_path: Path, make_plan: MakePlan) -> None:
    for paths in two_runs(tmp_path):
        [outcome] = execute(make_plan({"no video": ("A boat.", None)}, "reuse=true"), paths, Quiet()).values()
        assert outcome.state == "kept"
        assert len(answered(paths)) == 1


@pytest.mark.usefixtures("workers")
def test_answers_are_cached_despite_a_failure(
    paths: RunPaths, clips: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(takes(clips, 2))

    def fail(*_: object) -> None:
        raise HostError("the job cannot be cleaned up")

    monkeypatch.setattr(InProcessJob, "finish", fail)
    with pytest.raises(HostError):
        execute(plan, paths, Quiet())
    assert len(list(AnswerCache(Path(plan.settings.cache_dir)).find(plan.ids))) == 2


# ---------------------------------------------------------------------------------------------------------- failures


def test_unloadable_engine_keeps_earlier_answers(
    paths: RunPaths, clips: Path, make_plan: MakePlan, workers: list[InProcessJob]
) -> None:
    plan = make_plan(takes(clips, 2), "engine=vllm", "model=tiny_random")
    done = plan.items[0].id
    earlier = paths.jobs / "earlier"
    earlier.mkdir(parents=True)
    (earlier / "results.jsonl").write_text(to_line(Outcome(done, "upsampled", text="of an earlier job")) + "\n")
    with pytest.raises(EngineError, match="has no vLLM"):
        execute(plan, paths, Quiet())
    assert ids_in(paths.journal) == [done]


def test_slow_clips_are_no_failure(
    paths: RunPaths, clips: Path, make_plan: MakePlan, workers: list[InProcessJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(takes(clips, 2))
    ready, render = threading.Event(), rendering.render

    def slow(*arguments: object, **options: object) -> object:
        assert ready.wait(60)
        return render(*arguments, **options)  # type: ignore[arg-type]

    class Impatient(Quiet):
        """Lets the clips be rendered once workers have ended idle several times."""

        def step(self, stage: str, done: int, total: int | None, note: str = "") -> None:
            if starts(workers) > 5:
                ready.set()

    monkeypatch.setattr(staging, "render", slow)
    outcomes = execute(plan, paths, Impatient())
    assert {o.state for o in outcomes.values()} == {"upsampled"}
    assert starts(workers) > 5


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("workers_count", [1, 2])
def test_failed_staging_ends_the_run(
    paths: RunPaths, clips: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, workers_count: int
) -> None:
    plan = make_plan(takes(clips, 2), f"host.workers={workers_count}", "host.gpus=none")

    def fail(*_: object, **options: object) -> object:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(staging, "render", fail)
    with pytest.raises(HostError, match="hints cannot be written"):
        execute(plan, paths, Quiet())


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("damaged", ["batches", "frames"])
def test_damaged_queue_is_staged_again(paths: RunPaths, clips: Path, make_plan: MakePlan, damaged: str) -> None:
    plan = make_plan(takes(clips, 4), "host.workers=2", "host.gpus=none")
    pool = JobPaths(paths.jobs / "queue")
    assert sum(batch.count for batch in staging.stage(plan, set(plan.distinct_ids), pool, staging.Stop())) == 4
    for file in (pool.root / damaged).iterdir():
        file.unlink() if damaged == "frames" else file.write_bytes(b"\xff" + file.read_bytes()[1:])
    outcomes = execute(plan, paths, Quiet())
    assert {outcome.state for outcome in outcomes.values()} == {"upsampled"}


def test_unstartable_worker_is_named(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(takes(clips, 1), "engine=vllm", "model=tiny_random", "worker.python=/no/such/python")
    with pytest.raises(HostError, match="/no/such/python"):
        execute(plan, paths, Quiet())


# ----------------------------------------------------------------------------------------------------------- pushing


class CountedPushes:
    """A handle whose pushes wait for each other."""

    sent_bytes = 0

    def __init__(self) -> None:
        self.staged, self.pushed, self.pushes = 0, 0, 0
        self.may_push = threading.Event()

    def push(self) -> None:
        self.may_push.wait()
        self.pushes, self.pushed = self.pushes + 1, self.staged


def test_batches_staged_meanwhile_are_pushed_together() -> None:
    handle = CountedPushes()
    pusher = Pusher(cast(JobHandle, handle), Quiet())
    for _ in range(50):
        handle.staged += 1
        pusher.wake()
    handle.may_push.set()
    pusher.close()
    assert handle.pushed == 50 and handle.pushes <= 3


def test_failed_push_is_raised() -> None:
    class Fails(CountedPushes):
        def push(self) -> None:
            raise HostError("the disk there is full")

    pusher = Pusher(cast(JobHandle, Fails()), Quiet())
    pusher.close()
    with pytest.raises(HostError, match="full"):
        pusher.raise_error()
