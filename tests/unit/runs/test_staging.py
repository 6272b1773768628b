"""Staging: which job folder a run uses, what a worker is given, what comes again smaller."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from src.hosts.bundle import worker_bundle
from src.hosts.job_folder import JobPaths, open_job
from src.planning.plan import Plan, PlanItem
from src.run_folder import RunPaths
from src.runs import staging
from src.runs.staging import Stop, hash_of, job_folder, job_id, jobs_for, seed_of, stage, stage_smaller, upsample_job
from src.worker.journal import read_records
from src.worker.protocol import Item, Outcome, SentFrame, TokenCounts
from tests.harness.ffmpeg import H264, ffmpeg, moving
from tests.harness.records import write_lines
from tests.unit.runs.conftest import MakePlan, takes

OLD_WORKER = b"worker.pyz of an older version"


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    """A plan of three items without clips."""
    return make_plan({f"item{n}": (f"A boat, take {n}.", None) for n in range(3)})


def start_job(plan: Plan, jobs: Path, name: str, *, worker: bytes = OLD_WORKER) -> JobPaths:
    """A job for all items of a plan, started by a worker of some version."""
    job = JobPaths(jobs / name)
    open_job(job, upsample_job(plan))
    job.worker.write_bytes(worker)
    return job


def first(plan: Plan, count: int) -> Plan:
    return replace(plan, items=plan.items[:count])


def rewrite(job: JobPaths, **changes: Any) -> None:
    """Change keys of a job.json; None removes one."""
    record = json.loads(job.job.read_text()) | changes
    job.job.write_text(json.dumps({key: value for key, value in record.items() if value is not None}))


def as_staged(items: Sequence[PlanItem]) -> list[Item]:
    return [Item(item.id, 0, item.prompt, item.text, "", (), None, 300, 1, "") for item in items]


def test_blind_model_is_sent_no_frames(make_plan: MakePlan, paths: RunPaths, clips: Path) -> None:
    plan = make_plan(takes(clips, 1), "model=smollm2_135m", "model.family=unverified")
    job = job_folder(plan, paths.jobs)
    open_job(job, upsample_job(plan))
    assert [batch.lost for batch in stage(plan, set(plan.distinct_ids), job, Stop())] == [[], []]
    [batch] = job.batches.iterdir()
    [item] = read_records(batch, Item)
    assert item.frames == () and "The shot is wide" in item.text


# -------------------------------------------------------------------------------------------------------- job folder


def test_new_job_is_named_by_its_content(plan: Plan, paths: RunPaths) -> None:
    job = job_folder(plan, paths.jobs)
    assert job.root == paths.jobs / job_id(plan)
    assert not job.root.exists()


def test_job_name_depends_on_every_part(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {
        job_id(plan),
        job_id(first(plan, 2)),
        job_id(replace(plan, settings=replace(plan.settings, temperature=0.1))),
        job_id(plan, 1),
        job_id(plan, 2),
    }
    monkeypatch.setattr(staging, "worker_bundle", lambda: b"another version")
    assert len({*names, job_id(plan)}) == 6


def test_unfinished_job_of_another_version_is_kept(plan: Plan, paths: RunPaths) -> None:
    older = start_job(plan, paths.jobs, "0123456789abcdef")
    job = job_folder(plan, paths.jobs)
    open_job(job, upsample_job(plan))
    assert job == older
    assert job.worker.read_bytes() == worker_bundle()  # none runs there
    assert list(paths.jobs.iterdir()) == [older.root]


def test_order_of_items_does_not_matter(plan: Plan, paths: RunPaths) -> None:
    older = start_job(plan, paths.jobs, "0123456789abcdef")
    assert job_folder(replace(plan, items=plan.items[::-1]), paths.jobs) == older


def test_finished_job_is_followed_by_another(plan: Plan, paths: RunPaths) -> None:
    first = start_job(plan, paths.jobs, job_id(plan), worker=worker_bundle())
    first.finished.touch()
    second = job_folder(plan, paths.jobs)
    assert second.root == paths.jobs / job_id(plan, 1) != first.root


def test_job_for_other_items_is_not_used(plan: Plan, paths: RunPaths) -> None:
    other = start_job(plan, paths.jobs, "0123456789abcdef")
    assert job_folder(first(plan, 2), paths.jobs) != other


@pytest.mark.parametrize("known", [2, 3])
def test_old_job_is_recognized_by_staged_items(plan: Plan, paths: RunPaths, known: int) -> None:
    older = start_job(plan, paths.jobs, "0123456789abcdef")
    rewrite(older, items_hash=None, kind=None)  # as versions before wrote it
    write_lines(older.batches / "00000.jsonl", as_staged(plan.items[:known]))
    assert job_folder(plan, paths.jobs) == older


def test_old_job_for_other_items_is_skipped(plan: Plan, paths: RunPaths) -> None:
    older = start_job(plan, paths.jobs, "0123456789abcdef")
    rewrite(older, items_hash=None)
    write_lines(older.batches / "00000.jsonl", as_staged(plan.items))
    assert job_folder(first(plan, 2), paths.jobs) != older


@pytest.mark.parametrize("changes", [{"protocol": 2}, {"engine": "vllm"}, {"protocol": None}])
def test_job_of_another_protocol_is_left_alone(plan: Plan, paths: RunPaths, changes: dict[str, Any]) -> None:
    other = start_job(plan, paths.jobs, "0123456789abcdef")
    rewrite(other, **changes)
    assert jobs_for(plan, paths.jobs) == []
    assert job_folder(plan, paths.jobs) != other


def test_jobs_are_found_in_order_of_age(plan: Plan, paths: RunPaths) -> None:
    jobs = [start_job(plan, paths.jobs, name) for name in ("b", "a", "c")]
    for age, job in enumerate(jobs):
        os.utime(job.job, (age, age))
    jobs[0].finished.touch()
    assert jobs_for(plan, paths.jobs) == jobs


# --------------------------------------------------------------------------------------------------------- what it is


def test_job_record_covers_what_it_needs(clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan({
        "one": ("A boat.", clips / "wide.mp4"), "other": ("A car.", None), "missing": ("A car.", clips / "no.mp4"),
    })  # fmt: skip
    job = upsample_job(plan)
    sent = [item for item in plan.items if item.runs]
    assert job.images == max(item.hint.frames for item in sent if item.hint) > 1
    assert job.needed_len >= max(item.tokens.prompt for item in sent) + plan.settings.max_output_tokens
    assert job.items_hash == hash_of({item.id for item in plan.items})
    assert job.engine == plan.settings.engine and job.model == plan.settings.model


def test_seed_depends_on_item_and_setting(plan: Plan) -> None:
    one, other = plan.items[:2]
    seeds = {seed_of(one, plan.settings), seed_of(other, plan.settings), seed_of(one, replace(plan.settings, seed=99))}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


# ------------------------------------------------------------------------------------------------------------ batches


def stage_all(plan: Plan, job: JobPaths, missing: set[str] | None = None, stop: Stop | None = None) -> list[Outcome]:
    """Stage items, all by default; the outcomes of those that never reach a worker."""
    open_job(job, upsample_job(plan))
    ids = {item.id for item in plan.items} if missing is None else missing
    return [o for batch in stage(plan, ids, job, stop or Stop()) for o in batch.lost]


def staged_items(job: JobPaths) -> list[Item]:
    return [item for batch in sorted(job.batches.glob("*.jsonl")) for item in read_records(batch, Item)]


def test_batches_name_frames_by_content(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan, job = make_plan(takes(clips, 3), "budget.max_batch_size=2"), JobPaths(paths.jobs / "a")
    assert stage_all(plan, job) == []
    assert [sum(1 for _ in read_records(b, Item)) for b in sorted(job.batches.iterdir())] == [2, 1]
    items = staged_items(job)
    assert {item.id for item in items} == {item.id for item in plan.items}
    [frames] = {item.frames for item in items}  # one clip, rendered once
    assert sorted(f"frames/{name}" for name in os.listdir(job.frames)) == sorted(frames)
    assert items[0].predicted == plan.find(items[0].id).tokens.prompt


def test_staged_items_are_not_staged_again(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan, job = make_plan(takes(clips, 3)), JobPaths(paths.jobs / "a")
    stage_all(plan, job, {plan.items[0].id})
    stage_all(plan, job)
    assert sorted(item.id for item in staged_items(job)) == sorted(item.id for item in plan.items)
    assert len(list(job.batches.iterdir())) == 2  # a resumed run adds to a batch


def test_damaged_batch_is_staged_by_another_name(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan, job = make_plan(takes(clips, 3)), JobPaths(paths.jobs / "a")
    stage_all(plan, job)
    [batch] = job.batches.iterdir()
    batch.write_bytes(b"")
    stage_all(plan, job)
    assert sorted(item.id for item in staged_items(job)) == sorted(item.id for item in plan.items)
    assert batch.read_bytes() == b""


def test_unreadable_clip_never_reaches_a_worker(
    paths: RunPaths, clips: Path, make_plan: MakePlan, tmp_path: Path
) -> None:
    passing = tmp_path / "passing.mp4"
    passing.write_bytes((clips / "other.mp4").read_bytes())
    plan, job = (
        make_plan({"gone": ("A boat.", passing), "good": ("A boat.", clips / "wide.mp4")}),
        JobPaths(paths.jobs / "a"),
    )
    passing.unlink()
    [lost] = stage_all(plan, job)
    assert (lost.id, lost.state) == (plan.items[0].id, "kept") and "passing.mp4" in lost.reason
    assert [item.id for item in staged_items(job)] == [plan.items[1].id]


def test_stopped_staging_writes_no_batch(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan, job, stop = make_plan(takes(clips, 1)), JobPaths(paths.jobs / "a"), Stop()
    stop.asked = True
    stage_all(plan, job, stop=stop)
    assert staged_items(job) == []


# ------------------------------------------------------------------------------------------------------------ smaller


def refused(item: PlanItem, **fields: Any) -> Outcome:
    """The refusal of an item as it was planned."""
    assert item.hint
    frames = tuple(
        SentFrame("0" * 64, 1, f"{item.hint.width_px}x{item.hint.height_px}") for _ in range(item.hint.frames)
    )
    return Outcome(item.id, "refused", "too long", frames=frames, refusal="too_long", **fields)


def smaller_item(plan: Plan, job: JobPaths, refusal: Outcome) -> Item:
    """The item that is staged after a refusal."""
    open_job(job, upsample_job(plan))
    assert stage_smaller(plan.items[0], refusal, job, plan.settings) is None
    [item] = [item for item in staged_items(job) if item.step == refusal.step + 1]
    return item


def test_refused_item_costs_fewer_tokens(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan, job = make_plan(takes(clips, 1)), JobPaths(paths.jobs / "a")
    [item] = plan.items
    again = smaller_item(plan, job, refused(item))
    assert again.id == item.id
    assert again.predicted is not None and again.predicted < item.tokens.prompt
    assert again.note.endswith("refused by the engine")
    assert all((job.root / frame).exists() for frame in again.frames)


def test_named_limit_decides_the_size(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(takes(clips, 1))
    [item] = plan.items
    limit = item.tokens.prompt + plan.settings.max_output_tokens - 60
    again = smaller_item(plan, JobPaths(paths.jobs / "a"), refused(item, limit=limit))
    assert again.predicted is not None
    assert again.predicted + plan.settings.max_output_tokens <= limit
    surplus = refused(item, limit=limit, tokens=TokenCounts(measured=item.tokens.prompt + 100))
    smaller = smaller_item(plan, JobPaths(paths.jobs / "b"), surplus)
    assert smaller.predicted is not None
    assert smaller.predicted + 100 + plan.settings.max_output_tokens <= limit


def test_item_without_frames_cannot_shrink(plan: Plan, paths: RunPaths) -> None:
    outcome = Outcome(plan.items[0].id, "refused", "too long", refusal="too_long")
    reason = stage_smaller(plan.items[0], outcome, JobPaths(paths.jobs / "a"), plan.settings)
    assert reason == "the engine refused the prompt, and there is no frame to shrink: too long"


def test_smallest_hint_cannot_shrink(paths: RunPaths, clips: Path, make_plan: MakePlan) -> None:
    plan = make_plan(takes(clips, 1))
    [item] = plan.items
    outcome = replace(refused(item), frames=(SentFrame("0" * 64, 1, "16x16"),))
    reason = stage_smaller(item, outcome, JobPaths(paths.jobs / "a"), plan.settings)
    assert reason is not None and reason.startswith("the engine refused even 1 frame of 16x16")


# ------------------------------------------------------------------------------------------------- whole clips, families


def stage_plan(plan: Plan, job: JobPaths, cache: Path) -> list[Item]:
    open_job(job, upsample_job(plan))
    for _ in stage(plan, set(plan.distinct_ids), job, Stop()):
        pass
    return staged_items(job)


def test_clip_is_staged_as_one_video(make_plan: MakePlan, clips: Path, tmp_path: Path) -> None:
    plan = make_plan(takes(clips, 1), "model=qwen3_vl_8b", "frames=clip", "hints.video=false")
    job = JobPaths(tmp_path / "job")
    [item] = stage_plan(plan, job, tmp_path / "hints")
    [name] = item.frames
    assert name.endswith(".mp4") and (job.root / name).is_file() and item.predicted == plan.items[0].tokens.prompt
    record = upsample_job(plan)
    assert (record.images, record.clips) == (1, 1)


def test_refused_clip_comes_again_smaller_and_whole(make_plan: MakePlan, clips: Path, tmp_path: Path) -> None:
    prompts = {"hd": ("A boat", clips / "hd.mp4")}
    plan = make_plan(prompts, "model=qwen3_vl_8b", "frames=clip", "frames.fps=4", "upsample=native")
    item, job = plan.items[0], JobPaths(tmp_path / "job")
    stage_plan(plan, job, tmp_path / "hints")
    refused = Outcome(
        item.id, "refused", "too long", frames=(SentFrame("", 1, "1280x720"),), limit=1500, refusal="too_long",
        tokens=TokenCounts(item.tokens.prompt, item.tokens.prompt),
    )  # fmt: skip
    assert stage_smaller(item, refused, job, plan.settings) is None
    [again] = read_records(next(job.batches.glob("smaller-*.jsonl")), Item)
    assert again.step == 1 and again.predicted and again.predicted + plan.settings.max_output_tokens <= 1500
    assert len(again.frames) == 1 and again.frames[0].endswith(".mp4")


def test_unverified_item_predicts_nothing(make_plan: MakePlan, clips: Path, tmp_path: Path) -> None:
    plan = make_plan(takes(clips, 1), "model.family=unverified")
    [item] = stage_plan(plan, JobPaths(tmp_path / "job"), tmp_path / "hints")
    assert item.predicted is None


def test_tiny_model_brings_its_tokenizer(make_plan: MakePlan) -> None:
    prompts = {"a": ("A boat", None)}
    tiny = make_plan(prompts, "model=tiny_qwen3_vl", "engine=vllm")
    assert upsample_job(tiny).tokenizer
    for overrides in (("model=tiny_mistral_small", "engine=vllm"), ("model=tiny_qwen3_vl",)):
        plan = make_plan(prompts, *overrides)
        assert not upsample_job(plan).tokenizer


def test_clip_that_changes_its_size_is_noted(paths: RunPaths, tmp_path: Path, make_plan: MakePlan) -> None:
    parts = [tmp_path / f"{n}.ts" for n in range(2)]
    for n, (part, size) in enumerate(zip(parts, ("96x72", "128x72"), strict=True)):
        ffmpeg(*moving(size, seconds=1.0), *H264, "-output_ts_offset", str(n), part)
    clip = tmp_path / "clip.ts"
    clip.write_bytes(b"".join(part.read_bytes() for part in parts))
    plan, job = (
        make_plan({"a": ("A boat.", clip), "b": ("A car.", clip)}, "frames.rule=ends"),
        JobPaths(paths.jobs / "a"),
    )
    for _ in range(2):  # rendered, and from the cache
        stage_all(plan, job)
        notes = {item.note for item in staged_items(job)}
        assert notes == {"the clip changes its size, 96x72 to 128x72: each frame is scaled to the hint's"}
        shutil.rmtree(job.root)
