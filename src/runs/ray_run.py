"""A run on Ray, as a pipeline of Ray Data: hints are rendered by CPU tasks, batches answered by actors, and what they return goes
into the run's journal as it comes.

Placement, restarts, back-pressure and the number of workers are Ray's; what the engine refused is a further round.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import log
from ..errors import HostError, UpsamplerError, VideoError
from ..files import folder_atomic
from ..hosts.job_folder import JobPaths
from ..hosts.launch import Launch
from ..interrupts import raise_lost
from ..media.hint import Hint, hint_key
from ..media.video import Video
from ..planning.plan import Plan, PlanItem
from ..planning.settings import HostSettings, Settings
from ..run_folder import RunPaths
from ..text import counted
from ..timing.progress import Progress
from ..worker.journal import read_records
from ..worker.protocol import REFUSED, Item, Outcome
from . import staging
from .outcomes import Outcomes, RunJournal
from .ray_node import ROW, Answers, Batch, Clips, Rendering, Worker, render_batch
from .supervisor import Labels

OPEN = 128  # items at a worker, at least: in calls of a batch each
MOST_CALLS = 16
PORT = 6379  # Ray's
NO_CLUSTER = "is host.address the head of a cluster? One with tokens needs RAY_AUTH_MODE=token, and ~/.ray/auth_token"
Again = Callable[[Outcome, Plan, JobPaths], Outcome | None]


@contextmanager
def connected(host: HostSettings) -> Iterator[Any]:
    """Ray, started here for this run or reached at host.address. Raises HostError where it does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    import ray.data

    before, folder = signal.getsignal(signal.SIGTERM), ""
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    if host.address:
        has_port = host.address == "auto" or re.search(r":\d+$", host.address)
        port = "" if has_port else f":{host.port or PORT}"
        environment = {"py_modules": [str(Path(__file__).parents[1])], **host.runtime_environment}
        options |= {"address": f"{host.address}{port}", "runtime_env": environment}
    else:
        folder = tempfile.mkdtemp(prefix="ray-")
        options |= {"address": "local", "include_dashboard": False, "_temp_dir": folder}
    try:
        _start(ray, options, host)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # which Ray has taken
        ray._private.worker.print_to_stdstream = lambda *_, **__: None  # its errors, which log_to_driver lets through
        yield ray
    finally:
        ray.shutdown()
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, options: Mapping[str, Any], host: HostSettings) -> None:
    try:
        with _quiet():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as e:
        raise HostError(f"{host.name}: Ray does not answer: {e}", hint=NO_CLUSTER) from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Ray's libraries print as they start."""
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)


def resources(host: HostSettings) -> str:
    """What a cluster has, for people."""
    if not host.address:
        return f"Ray {version('ray')}; one of this machine is started for each run"
    with connected(host) as ray:
        return _resources(ray)


def _resources(ray: Any) -> str:
    found, nodes = ray.cluster_resources(), len(ray.nodes())
    return (
        f"Ray {ray.__version__}: {counted(nodes, 'node')}, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"
    )


def run_on_ray(
    plan: Plan, paths: RunPaths, journal: RunJournal, progress: Progress, on_round: Callable[[Outcomes], None],
    again: Again, labels: Labels,
) -> None:  # fmt: skip
    """Ask what has not ended, until everything has. again: stages what the engine refused once more, or ends it."""
    # For what is staged once more; what an earlier start left there is asked from the beginning.
    job = JobPaths(paths.jobs / "ray")
    shutil.rmtree(job.root, ignore_errors=True)
    batches: Iterable[Batch] = _planned(plan, journal)
    with connected(plan.settings.host) as ray:
        log.get().info("ray_connected", text=_resources(ray))
        while rows := [{ROW: pickle.dumps(batch)} for batch in batches]:
            for file in job.batches.glob("*.jsonl"):
                file.unlink()
            for answers in _answers(ray, rows, plan, labels):
                new = _take(answers, plan, journal, job, again)
                progress.took("answers", time.monotonic(), new)
                progress.step("answers", len(journal.outcomes), len(plan.distinct_ids), journal.outcomes.note)
                on_round(journal.outcomes)
                raise_lost()
            batches = _staged_again(job)
    shutil.rmtree(job.root, ignore_errors=True)


class _Later:
    """Frames that a node will render."""

    def start(self, item: PlanItem) -> None: ...

    def frames(self, video: Video, hint: Hint) -> tuple[list[str], str]:
        return ["later"], ""


class _Never(_Later):
    """Frames that could not be rendered."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def frames(self, video: Video, hint: Hint) -> tuple[list[str], str]:
        raise VideoError(self.reason)


def _planned(plan: Plan, journal: RunJournal) -> Iterator[Batch]:
    """The plan's batches, without what has ended."""
    for batch in plan.batches:
        items, hints = [], {}
        for item in (plan.find(item_id) for item_id in batch if item_id not in journal.outcomes):
            line, _ = staging.record_of(item, _Later(), plan.settings)
            assert line
            key = ""
            if item.video and item.hint:
                key = hint_key(item.video, item.hint)
                hints[key] = (item.video, item.hint)
            items.append((line, key))
        if items:
            yield Batch(items, hints)


def _staged_again(job: JobPaths) -> Iterator[Batch]:
    """What was staged in the folder here, each with its frames."""
    for file in sorted(job.batches.glob("*.jsonl")):
        items = list(read_records(file, Item))
        frames = {name: (job.root / name).read_bytes() for item in items for name in item.frames}
        yield Batch([(item, "") for item in items], frames=frames)


def _answers(ray: Any, rows: list[dict[str, bytes]], plan: Plan, labels: Labels) -> Iterator[Answers]:
    """What comes of the batches, as it comes. Raises what ended a worker for good."""
    settings, host = plan.settings, plan.settings.host
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    pipeline = (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(render_batch, fn_kwargs={"how": _rendering(ray, settings)}, num_cpus=1)
        .map_batches(
            Worker,
            batch_size=1,
            fn_constructor_args=(staging.upsample_job(plan), _launch(plan), labels),
            compute=ray.data.ActorPoolStrategy(**_pool(plan, len(rows))),
            num_cpus=0,
            num_gpus=float(host.gpus) if host.gpus.isdecimal() else 0,
        )
    )
    try:
        for row in pipeline.iter_rows():
            yield pickle.loads(row[ROW])
    except Exception as e:
        raise _cause(e) from e


def _rendering(ray: Any, settings: Settings) -> Rendering:
    clips = None
    if settings.host.address:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as Affinity

        here = Affinity(ray.get_runtime_context().get_node_id(), soft=False)
        clips = ray.remote(Clips).options(num_cpus=0, scheduling_strategy=here, max_concurrency=4).remote()
    cache = (Path(settings.cache_dir) / "hints").absolute()
    cache.mkdir(parents=True, exist_ok=True)
    own = Path(settings.host.root) / "hints"
    return Rendering(cache, own, clips, settings.hint_video, settings.max_render_s, settings.max_pixels)


def _launch(plan: Plan) -> Launch:
    """How an actor starts its worker, which sees the GPUs that Ray gave the actor."""
    launch = Launch.of(plan.settings, plan.run_id)
    return replace(launch, host=replace(launch.host, kind="local", gpus="all"))


def _pool(plan: Plan, batches: int) -> dict[str, Any]:
    """How many workers there are, and how many calls of a batch each has open."""
    host, size = plan.settings.host, max(map(len, plan.batches))
    calls = -(-max(2 * plan.settings.engine.in_flight, OPEN) // size)
    calls = max(2, min(calls, MOST_CALLS, -(-batches // host.workers)))
    return {
        "min_size": min(host.workers_min, host.workers),
        "max_size": host.workers,
        "max_concurrent_calls_per_actor": calls,
        "max_tasks_in_flight_per_actor": calls + 1,
        "enable_true_multi_threading": True,
    }


def _take(answers: Answers, plan: Plan, journal: RunJournal, job: JobPaths, again: Again) -> int:
    """Write down what ended, and stage what has to be asked again; how many ended."""
    for key, files in answers.hints.items():
        _keep_hint(Path(plan.settings.cache_dir) / "hints" / key, files)
    ended = []
    for outcome in journal.asked_for(answers.outcomes):
        if outcome.state != REFUSED:
            ended.append(outcome)
        elif outcome.id not in journal.outcomes and (final := again(outcome, plan, job)):
            ended.append(final)
    for item_id, reason in answers.unrendered.items():
        line, lost = staging.record_of(plan.find(item_id), _Never(reason), plan.settings)
        if lost:
            ended.append(lost)
        elif line:
            staging.stage_alone(line, job)
    return len(journal.add(ended))


def _keep_hint(folder: Path, files: Mapping[str, bytes]) -> None:
    """A cache entry of another node, for the report."""
    if not folder.exists():
        with folder_atomic(folder) as aside:
            for name, data in files.items():
                (aside / name).write_bytes(data)


def _cause(error: BaseException | None) -> BaseException:
    """What went wrong on a node, as it was raised there; else what Ray says of it."""
    first = error
    while error:
        if isinstance(error, UpsamplerError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return HostError(
        f"Ray gave up: {type(first).__name__}: {first}".splitlines()[0], hint="resume the run to process the rest"
    )
