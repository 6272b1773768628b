"""What a worker is given: its job.json, and batches staged one by one while hints are still being rendered."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ..errors import HintError, VideoError
from ..files import clear_asides, file_sha256, link_atomic, write_atomic
from ..hosts.bundle import worker_bundle
from ..hosts.job_folder import JobPaths
from ..media import geometry
from ..media.guard import Guard
from ..media.hint import Hint, RenderedHint, hint_key, hint_times
from ..media.render import render
from ..media.video import Video
from ..models.families import TOKENIZERS
from ..models.family import Media
from ..models.tokenizer import packed
from ..planning.plan import Plan, PlanItem, smallest_max_model_len
from ..planning.recipe import language_of, pins_of
from ..planning.settings import Settings, digest, long_digest
from ..worker.answer_form import AnswerForm
from ..worker.protocol import PROTOCOL, Checks, Item, Outcome, UpsampleJob, fallback_state
from ..worker.records import InvalidRecord, from_line, to_json, to_line

LINGER_S = 60.0
MOST_AGAIN = 3  # times that an item is sent again for damaged frames
AHEAD = 4  # batches whose frames are in work at a time, beside the one that is staged
WaitFor = Callable[[Path, Callable[[], bool]], None]
Numbered = tuple[int, list[PlanItem]]  # a batch: its number, and what of it is to be staged


@dataclass(frozen=True, slots=True)
class Batch:
    """What was staged at a time. count: of items that have been taken care of, lost: of them, how those ended that never reach
    a worker; name, ids: the file of the others, and what is in it."""

    count: int
    lost: list[Outcome] = field(default_factory=list)
    name: str = ""
    ids: tuple[str, ...] = ()


def job_id(plan: Plan, before: int = 0, place: str = "") -> str:
    """Name of a new job: a hash of what it asks for, of the worker that answers, and of how many jobs ended `before`."""
    made_of = (to_json(upsample_job(plan, place)), hashlib.sha256(worker_bundle()).hexdigest())
    return digest(*made_of, before) if before else digest(*made_of)


def jobs_for(plan: Plan, jobs: Path, place: str = "") -> list[JobPaths]:
    """The jobs for a plan's items at a place below the folder of a run's jobs, the oldest first, whichever version of the
    worker they were started with."""
    ids, items_hash, found = plan.distinct_ids, hash_of(plan.distinct_ids, place), []
    for file in sorted(jobs.glob("*/job.json"), key=lambda file: file.stat().st_mtime_ns):
        job = JobPaths(file.parent)
        try:
            record = from_line(UpsampleJob, file.read_bytes())
        except InvalidRecord:
            continue  # of a version with another protocol: its answers are taken over, and it is left alone
        is_for_these = record.items_hash == items_hash if record.items_hash else job.staged() <= ids
        if record.protocol == PROTOCOL and is_for_these:
            found.append(job)
    return found


def job_folder(plan: Plan, jobs: Path, place: str = "") -> JobPaths:
    """The folder of the job for a plan's items at a place, one of several.

    An unfinished job is kept: a second worker is never started beside it, and what it has answered is not asked again.
    Otherwise a new one, whose name depends on how many there were before.
    """
    before = jobs_for(plan, jobs, place)
    unfinished = next((job for job in before if not job.finished.exists()), None)
    return unfinished or JobPaths(jobs / job_id(plan, len(before), place))


def hash_of(ids: Collection[str], place: str = "") -> str:
    return long_digest(sorted(ids), *([place] if place else []))


def upsample_job(plan: Plan, place: str = "") -> UpsampleJob:
    """The job.json of a job for a plan's items."""
    settings, summary = plan.settings, plan.summary
    return UpsampleJob(
        protocol=PROTOCOL,
        engine=settings.engine,
        model=settings.model,
        max_model_len=settings.max_model_len,
        max_output_tokens=settings.max_output_tokens,
        needed_len=smallest_max_model_len([summary.longest_prompt] if summary.sent else [], settings.max_output_tokens),
        images=summary.most_frames or 1,
        clips=int(summary.sends_clips),
        temperature=settings.temperature,
        checks=Checks(settings.check_cut_off, settings.check_script),
        linger_s=LINGER_S,
        items_hash=hash_of(plan.distinct_ids, place),
        tokenizer=_tiny_tokenizer(settings),
        answer=_answer_form(settings),
    )


def _answer_form(settings: Settings) -> AnswerForm:
    """What the target wants of an answer, with the tokenizer of its text encoder."""
    target = settings.target
    if not target.encoder_tokenizer:
        return target.answer
    name = Path(target.encoder_tokenizer).name
    return replace(target.answer, encoder_kind=name, encoder_file=packed(target.encoder_tokenizer))


def _tiny_tokenizer(settings: Settings) -> str:
    """The tokenizer of a tiny model, where the host may lack it: mistral-common comes with every vLLM."""
    model = settings.model
    if settings.engine.name != "vllm" or not model.tiny_random or model.is_mistral:
        return ""
    return packed(TOKENIZERS[model.tiny_family or model.family])


def seed_of(item: PlanItem, settings: Settings) -> int:
    """A 31-bit seed from the item's identity, so that the same item is the same request in every run."""
    return (int(item.id[:8], 16) ^ settings.seed) & 0x7FFF_FFFF


def stage(
    plan: Plan,
    missing: Collection[str],
    paths: JobPaths,
    stop: Stop,
    wait_for: WaitFor = lambda entry, is_stopped: None,
) -> Iterator[Batch]:
    """Render the hints of the missing items and stage them, one batch at a time.

    Clips are rendered in parallel and each hint once, however many items share it. wait_for: returns once a hint is in the cache,
    or has to be rendered here.
    """
    settings = plan.settings
    clear_asides(hint_cache(settings), paths.run_folder, paths.root, paths.batches, paths.frames)
    staged = paths.staged()  # by an earlier start; their frames are in the job folder
    yield Batch(sum(item_id in missing for item_id in staged))
    with _Renderer(paths, settings, stop, wait_for) as renderer:
        for number, batch in _as_ready(_batches(plan, missing, staged), renderer):
            records, lost = [], []
            for item in batch:
                record, outcome = record_of(item, renderer, settings)
                records += [record] if record else []
                lost += [outcome] if outcome else []
            if stop.asked:
                return
            name = ""
            if records:
                name = put_batch(paths, f"{number:05d}", "".join(to_line(r) + "\n" for r in records))
            yield Batch(len(batch), lost, name, tuple(record.id for record in records))


def put_batch(paths: JobPaths, stem: str, text: str) -> str:
    """Write a batch, with a name that says what is in it: a resumed run may add to it. One that is there, and so is damaged, is
    not replaced: a worker takes each name once. Returns the name."""
    name = f"{stem}-{digest(text)[:8]}.jsonl"
    while (paths.batches / name).exists():
        name = f"{stem}-{digest(name)[:8]}.jsonl"
    write_atomic(paths.batches / name, text)
    return name


def _batches(plan: Plan, missing: Container[str], staged: Container[str]) -> Iterator[Numbered]:
    """What of each batch is to be staged, with its number; batches of which nothing is are left out."""
    for number, batch in enumerate(plan.batches):
        if todo := [plan.find(i) for i in batch if i in missing and i not in staged]:
            yield number, todo


def _as_ready(batches: Iterable[Numbered], renderer: _Renderer) -> Iterator[Numbered]:
    """The batches in the order in which their frames are there: those after it do not wait for a slow clip."""
    waiting: list[Numbered] = []
    for batch in batches:
        for item in batch[1]:
            renderer.start(item)
        waiting.append(batch)
        while len(waiting) > 1 and (ready := renderer.ready(waiting, wait_for_one=len(waiting) > AHEAD)):
            waiting.remove(ready)
            yield ready
    while ready := renderer.ready(waiting, wait_for_one=bool(waiting)):
        waiting.remove(ready)
        yield ready


def hint_cache(settings: Settings) -> Path:
    return Path(settings.cache_dir) / "hints"


def rendered(
    video: Video, hint: Hint, settings: Settings, is_stopped: Callable[[], bool] = lambda: False
) -> RenderedHint:
    """A hint of a run, from the cache or rendered now. Raises VideoError or HintError for a clip of which there is none."""
    guard = Guard(video.path, settings.max_render_s, settings.max_pixels, is_stopped)
    with_video = settings.hint_video or hint.clip_fps is not None
    return render(video, hint, hint_cache(settings), with_video=with_video, guard=guard)


class Stop:
    """A flag that one thread sets and others read."""

    asked = False


class _Renderer:
    """Renders hints in parallel and puts their frames into the job folder, each hint once, however many items share it."""

    KEPT = 4096  # hints that are known; one that comes again later is found in the cache

    def __init__(
        self, paths: JobPaths, settings: Settings, stop: Stop, wait_for: WaitFor = lambda entry, is_stopped: None
    ) -> None:
        self._paths, self._settings, self._stop, self._wait_for = paths, settings, stop, wait_for
        workers = settings.render_workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="render")
        self._frames: dict[str, Future[tuple[list[str], str]]] = {}

    def __enter__(self) -> _Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def start(self, item: PlanItem) -> None:
        if item.video and item.hint and hint_key(item.video, item.hint) not in self._frames:
            if len(self._frames) >= self.KEPT:
                self._frames.pop(next(iter(self._frames)))
            self._frames[hint_key(item.video, item.hint)] = self._pool.submit(self._render, item.video, item.hint)

    def ready(self, batches: Sequence[Numbered], *, wait_for_one: bool) -> Numbered | None:
        """The first of these batches whose hints are all rendered, or cannot be; None for none."""
        while True:
            for batch in batches:
                if not self._in_work(batch):
                    return batch
            if not wait_for_one:
                return None
            wait([future for batch in batches for future in self._in_work(batch)], return_when=FIRST_COMPLETED)

    def _in_work(self, batch: Numbered) -> list[Future[tuple[list[str], str]]]:
        keys = (hint_key(item.video, item.hint) for item in batch[1] if item.video and item.hint)
        return [future for key in keys if (future := self._frames.get(key)) and not future.done()]

    def frames(self, video: Video, hint: Hint) -> tuple[list[str], str]:
        return self._frames[hint_key(video, hint)].result()

    def _render(self, video: Video, hint: Hint) -> tuple[list[str], str]:
        self._wait_for(hint_cache(self._settings) / hint_key(video, hint), lambda: self._stop.asked)
        if self._stop.asked:
            raise HintError("stopped before it was rendered")
        entry = rendered(video, hint, self._settings, lambda: self._stop.asked)
        return link_frames(entry, hint, self._paths), entry.note


class Renderer(Protocol):
    """What has the frames of hints."""

    def start(self, item: PlanItem) -> None: ...

    def frames(self, video: Video, hint: Hint) -> tuple[list[str], str]:
        """The names of a hint's frames in the job folder, and its note. Raises VideoError or HintError where there are none."""


def record_of(item: PlanItem, renderer: Renderer, settings: Settings) -> tuple[Item | None, Outcome | None]:
    """The batch line of an item, or the outcome of one that cannot be sent."""
    note = f"from the text only: {item.problem}" if item.problem else ""
    if not (item.video and item.hint):
        return _line(item, item.tokens.prompt, [], settings, note=note), None
    try:
        renderer.start(item)
        frames, note = renderer.frames(item.video, item.hint)
    except (VideoError, HintError) as e:
        if settings.on_bad_video != "text_only" or not item.prompt.strip():
            return None, Outcome(item.id, fallback_state(item.prompt), e.message)
        family = settings.family
        predicted = family.wrapper_tokens(item.system) + family.text_tokens(item.system, item.text, with_media=False)
        return _line(item, predicted, [], settings, note=f"from the text only: {e.message}"), None
    if settings.model.text_only:  # its frames were measured, and are there for the report
        frames = []
    return _line(item, item.tokens.prompt, frames, settings, note=note), None


def _line(item: PlanItem, predicted: int, frames: list[str], settings: Settings, step: int = 0, note: str = "") -> Item:
    return Item(
        id=item.id,
        step=step,
        prompt=item.prompt,
        text=item.text,
        system=item.system,
        frames=tuple(frames),
        predicted=predicted if settings.family.verified else None,
        max_tokens=settings.max_output_tokens,
        seed=seed_of(item, settings),
        note=note,
        pins=pins_of(settings.target, item.video),
        language=language_of(settings.target, with_frames=bool(frames)),
    )


def stage_smaller(item: PlanItem, refused: Outcome, paths: JobPaths, settings: Settings) -> str | None:
    """Stage an item that the engine refused again, with a smaller hint; None when that was done, else why it was not.

    Where the engine named its limit, the largest hint that fits it; else the next smaller one. Below the smallest size,
    frames are dropped.
    """
    if not (item.video and item.hint and refused.frames):
        return f"the engine refused the prompt, and there is no frame to shrink: {refused.reason}"
    size = geometry.Size(*map(int, refused.frames[0].size.split("x")))
    count = item.hint.frames if item.hint.clip_fps else len(refused.frames)
    smaller = _smaller_than_refused(item, refused, size, count, settings)
    if smaller is None:
        return f"the engine refused even {count} frame{'s' if count > 1 else ''} of {size}: {refused.reason}"
    new, frames = smaller
    times = hint_times(item.video, item.hint.rule, frames, item.hint.fps)
    hint = replace(item.hint, width_px=new.width_px, height_px=new.height_px, frames=len(times), times_s=times)
    try:
        entry = rendered(item.video, hint, settings)
    except (VideoError, HintError) as e:
        return e.message
    predicted = item.tokens.prompt - item.tokens.image + settings.family.media_tokens(new, _media(hint, frames))
    step = f"{count} x {size} refused by the engine"
    note = "; ".join(n for n in (refused.note, step) if n)
    line = _line(item, predicted, link_frames(entry, hint, paths), settings, refused.step + 1, note)
    stage_alone(line, paths)
    return None


def stage_again(item: PlanItem, refused: Outcome, paths: JobPaths, settings: Settings) -> str | None:
    """Stage an item again as it was, with frames that are rendered again where those in the cache are damaged too; None when that
    was done, else why it was not."""
    if not (item.video and item.hint) or refused.step >= MOST_AGAIN:
        return refused.reason
    with _Renderer(paths, settings, Stop()) as renderer:
        line, lost = record_of(item, renderer, settings)
    if line is None:
        return lost.reason if lost else refused.reason
    stage_alone(replace(line, step=refused.step + 1), paths)
    return None


def stage_alone(line: Item, paths: JobPaths) -> None:
    """Stage one item, by a name that sorts after the numbered batches, and apart from every other refusal."""
    write_atomic(paths.batches / alone(line.id, line.step), to_line(line) + "\n")


def alone(item_id: str, step: int) -> str:
    return f"smaller-{item_id}-{step}.jsonl"


def _media(hint: Hint, frames: int) -> Media:
    return Media(frames, hint.clip_fps)


def _smaller_than_refused(
    item: PlanItem, refused: Outcome, size: geometry.Size, frames: int, settings: Settings
) -> tuple[geometry.Size, int] | None:
    """The hint to try after a refused one: its size and number of frames."""
    hint, family = item.hint, settings.family
    assert hint
    sent = family.media_tokens(size, _media(hint, frames))
    text = item.tokens.prompt - item.tokens.image
    surplus = max(0, (refused.tokens.measured or 0) - text - sent)  # that the engine counts and the plan does not
    limit = refused.limit

    def fits(candidate: geometry.Size, count: int) -> bool:
        image = family.media_tokens(candidate, _media(hint, count))
        if hint.clip_fps and count < frames:  # a clip keeps its frames, for which its outcome has no number
            return False
        room = limit is None or text + image + surplus + settings.max_output_tokens <= limit
        return image < sent and room

    return geometry.shrunk(lambda n: family.sizes(size, _media(hint, n)), size, frames, settings.min_side_px, fits)


def link_frames(rendered: RenderedHint, hint: Hint, paths: JobPaths) -> list[str]:
    """Put the frames of a hint, or its video, into the job folder, named by their content; their names there."""
    if hint.clip_fps and rendered.video_path:
        name = f"frames/{file_sha256(rendered.video_path)}.mp4"
        link_atomic(rendered.video_path, paths.root / name)
        return [name]
    names = [f"frames/{frame.sha256}.png" for frame in rendered.frames]
    for source, name in zip(rendered.frame_paths, names, strict=True):
        link_atomic(source, paths.root / name)
    return names
