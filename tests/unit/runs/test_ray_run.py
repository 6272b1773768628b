"""The pieces of a run on Ray, one after another in this process, with a real worker; tests/e2e/test_ray.py has a real Ray."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from src.errors import EngineError, VideoError
from src.hosts.job_folder import JobPaths
from src.media.hint import hint_key
from src.planning.plan import Plan
from src.run_folder import RunPaths
from src.runs import ray_node, ray_run, staging
from src.runs.outcomes import RunJournal
from src.runs.ray_node import ROW, Answers, Batch, Rendering, Worker, render_batch
from src.runs.upsampling import LABELS, _stage_again
from src.worker.protocol import KEPT, REFUSED, UPSAMPLED, Outcome, SentFrame
from tests.harness.fake_engine import wait_until
from tests.unit.runs.conftest import MakePlan


@pytest.fixture
def plan(make_plan: MakePlan, clips: Path) -> Plan:
    return make_plan({"wide": ("A boat.", clips / "wide.mp4"), "text": ("A bird.", None)})


@pytest.fixture
def journal(paths: RunPaths, plan: Plan) -> Iterator[RunJournal]:
    journal = RunJournal(paths.journal, plan.places)
    yield journal
    journal.close()


@pytest.fixture
def worker(plan: Plan) -> Iterator[Worker]:
    made = Worker(staging.upsample_job(plan), ray_run._launch(plan), LABELS)
    yield made
    made.is_done = True
    wait_until(made.folder.finished.exists)
    shutil.rmtree(made.folder.root)


@pytest.fixture
def rendering(plan: Plan, tmp_path: Path) -> Rendering:
    """As of a node that does not see the controller's cache."""
    return Rendering(tmp_path / "not here", tmp_path / "node", None, False, 60.0, 1 << 40)


def rendered(plan: Plan, journal: RunJournal, how: Rendering) -> list[Batch]:
    rows = [{ROW: pickle.dumps(batch)} for batch in ray_run._planned(plan, journal)]
    return [pickle.loads(render_batch(row, how)[ROW]) for row in rows]


def answers_of(worker: Worker, batch: Batch) -> Answers:
    return pickle.loads(worker({ROW: [pickle.dumps(batch)]})[ROW][0])  # type: ignore[no-any-return]


def test_batch_comes_back_answered(
    plan: Plan, journal: RunJournal, worker: Worker, rendering: Rendering, tmp_path: Path
) -> None:
    job = JobPaths(tmp_path / "again")
    for batch in rendered(plan, journal, rendering):
        ray_run._take(answers_of(worker, batch), plan, journal, job, _stage_again)
    assert journal.outcomes.states == {UPSAMPLED: 1, KEPT: 1}  # the engine answers nothing without frames
    (item,) = [item for item in plan.items if item.video and item.hint]
    assert len(journal.outcomes[item.id].frames) == 2
    assert (Path(plan.settings.cache_dir) / "hints" / hint_key(item.video, item.hint) / "hint.json").exists()
    assert list(ray_run._planned(plan, journal)) == []


def test_lost_batch_is_answered_from_the_journal(
    plan: Plan, journal: RunJournal, worker: Worker, rendering: Rendering
) -> None:
    for batch in rendered(plan, journal, rendering):
        first, again = answers_of(worker, batch), answers_of(worker, batch)
        assert first.outcomes == again.outcomes and not again.hints


def test_refused_item_comes_again_smaller(plan: Plan, journal: RunJournal, tmp_path: Path) -> None:
    job = JobPaths(tmp_path / "again")
    (item,) = [item for item in plan.items if item.hint]
    refused = Outcome(item.id, REFUSED, "too long", frames=(SentFrame("0" * 64, 9, "320x180"),) * 2)
    assert ray_run._take(Answers([refused], {}, {}), plan, journal, job, _stage_again) == 0
    (batch,) = ray_run._staged_again(job)
    ((line, key),) = batch.items
    assert (line.id, line.step, key) == (item.id, 1, "") and set(batch.frames) == set(line.frames)


@pytest.mark.parametrize(("on_bad_video", "ended"), [("keep", 1), ("text_only", 0)])
def test_clip_that_cannot_be_rendered(
    plan: Plan, journal: RunJournal, rendering: Rendering, tmp_path: Path, on_bad_video: str, ended: int
) -> None:
    plan, job = replace(plan, settings=replace(plan.settings, on_bad_video=on_bad_video)), JobPaths(tmp_path / "again")
    batches = rendered(plan, journal, replace(rendering, max_pixels=1))
    failed = {item.id: batch.failed[key] for batch in batches for item, key in batch.items if key in batch.failed}
    assert ray_run._take(Answers([], failed, {}), plan, journal, job, _stage_again) == ended
    assert sum(not line.frames for batch in ray_run._staged_again(job) for line, _ in batch.items) == 1 - ended


def test_model_that_cannot_be_loaded_ends_the_call(plan: Plan, journal: RunJournal, rendering: Rendering) -> None:
    job, launch = staging.upsample_job(plan), ray_run._launch(plan)
    broken = Worker(replace(job, engine=replace(job.engine, name="cosmos")), launch, LABELS)
    first, *_ = rendered(plan, journal, rendering)
    with pytest.raises(EngineError, match="the model could not be loaded"):
        answers_of(broken, first)


def test_clip_is_fetched_where_it_is_not_seen(
    plan: Plan, rendering: Rendering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda data: data))
    (item,) = [item for item in plan.items if item.hint]
    assert item.video and item.hint
    data = Path(item.video.path).read_bytes()
    clips = SimpleNamespace(read=SimpleNamespace(remote=lambda path: data))
    elsewhere = replace(item.video, path="/not/here/wide.mp4")
    entry = ray_node._rendered(elsewhere, item.hint, replace(rendering, clips=clips))
    assert len(entry.rendered.frames) == 2 and not entry.is_here


def test_error_of_a_node_is_the_runs() -> None:
    outer = RuntimeError("task failed")
    outer.__cause__ = VideoError("the clip is damaged")
    assert ray_run._cause(outer) is outer.__cause__
    assert "RuntimeError: lost" in str(ray_run._cause(RuntimeError("lost")))
