"""What lies in a run folder: its kind, its plan, its jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from src.errors import InputError
from src.hosts.job_folder import JobPaths, open_job
from src.planning.partition import places
from src.planning.plan import Plan
from src.planning.plan_file import read_plan
from src.run_folder import RunPaths
from src.runs.outcomes import RunJournal
from src.runs.saved_run import jobs_of, kind_of, refuse_another_run, save_plan
from src.runs.staging import job_folder, upsample_job
from src.worker.protocol import Outcome
from tests.unit.runs.conftest import MakePlan


@pytest.fixture
def plan(make_plan: MakePlan) -> Plan:
    return make_plan({f"item{n}": (f"A boat, take {n}.", None) for n in range(4)})


def end_items(paths: RunPaths, plan: Plan, count: int) -> None:
    journal = RunJournal(paths.journal)
    for item in plan.items[:count]:
        journal.add([Outcome(item.id, "kept")])
    journal.close()


@pytest.mark.parametrize(
    ("files", "ended", "kind"),
    [
        ((), 0, "upsample"),
        ((), 4, "upsample"),
        (("pipeline.json",), 4, "pipeline"),
        (("pipeline.json", "review.jsonl", "results.json"), 4, "pipeline"),
        (("points.json",), 4, "limits"),
        (("review.jsonl", "results.json"), 4, "review"),
        (("review.jsonl", "results.json"), 3, "upsample"),  # some items have not ended
        (("review.jsonl",), 4, "upsample"),
        (("results.json",), 4, "upsample"),
    ],
)
def test_kind_follows_from_the_files(
    paths: RunPaths, plan: Plan, files: tuple[str, ...], ended: int, kind: str
) -> None:
    save_plan(plan, paths)
    end_items(paths, plan, ended)
    for name in files:
        (paths.root / name).write_text("")
    assert kind_of(paths) == kind


def test_empty_folder_is_an_upsampling_run(paths: RunPaths) -> None:
    assert kind_of(paths) == "upsample"


def test_saved_plan_is_read_back(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths)
    assert read_plan(paths.plan) == plan


def test_folder_of_the_same_run_is_accepted(paths: RunPaths, plan: Plan) -> None:
    refuse_another_run(plan, paths)
    save_plan(plan, paths)
    end_items(paths, plan, 1)
    refuse_another_run(plan, paths)


def test_folder_of_another_run_is_refused(paths: RunPaths, plan: Plan, make_plan: MakePlan) -> None:
    save_plan(plan, paths)
    other = make_plan({"item": ("A car.", None)})
    refuse_another_run(other, paths)  # nothing has ended in it
    end_items(paths, plan, 1)
    with pytest.raises(InputError, match="of 4 items") as error:
        refuse_another_run(other, paths)
    assert "resume=" in error.value.hint


def test_started_jobs_have_their_place(paths: RunPaths, make_plan: MakePlan) -> None:
    prompts: dict[str, tuple[str, Path | None]] = {f"item{n}": (f"A boat, take {n}.", None) for n in range(4)}
    plan = make_plan(prompts, "host.workers=2", "host.gpus=none")
    save_plan(plan, paths)
    started: list[JobPaths] = []
    for place in places(plan):
        job = job_folder(plan, paths.jobs, place.name)
        open_job(job, upsample_job(plan, place.name))
        started.append(job)
    saved, found = jobs_of(paths)
    assert saved == plan
    assert [job for _, job in found] == started
    assert [place for place, _ in found] == list(places(plan))


def test_newest_job_stands_for_its_part(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths)
    for _ in range(2):
        job = job_folder(plan, paths.jobs)
        open_job(job, upsample_job(plan))
        job.finished.touch()
    _, [(_, found)] = jobs_of(paths)
    assert found == job


def test_run_without_jobs_is_explained(paths: RunPaths, plan: Plan) -> None:
    save_plan(plan, paths)
    with pytest.raises(InputError, match="nothing was started in this run yet"):
        jobs_of(paths)
