"""`task=spec`: make PromptSpecs from clips, from the command line or from another list; or check a list and print it.

With then=true they are upsampled in the same run folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .. import log
from ..choices import TaskName
from ..config import Config
from ..errors import ExitCode, InputError, SpecError, VideoError
from ..files import aside_of
from ..media.encode import clip_of_frames
from ..planning.configure import reading
from ..planning.resolve import probe_all
from ..prompts import drafts, shots
from ..prompts.drafts import Draft, Listed
from ..prompts.paths import expanded
from ..prompts.specs import matches, prompt_files, read_specs
from ..reports.tables import print_specs
from ..text import counted, printable
from . import Invocation, run_task


def run(invocation: Invocation) -> ExitCode:
    """Exit code 2 when something is wrong with a prompt or a clip, all of it listed and nothing written; with
    then=true, that of task=upsample."""
    config, out = invocation.config, invocation.out
    if config.resume:
        raise InputError("task=spec starts something new", hint="resume a run with resume=FOLDER and no task")
    if config.spec.prepare:
        _prepare(config, invocation)
    found = _described(config) or _clips(config) or _listed(config)
    listed, problems = _probe(found, invocation)
    print_specs(listed, out)
    for problem in problems:
        out.print(f"- {printable(problem)}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        out.print(f"{counted(len(problems), 'problem')}; nothing was written", style="bold", highlight=False)
        return ExitCode.INPUT
    files = list(found.files)
    if not files or config.spec.out:
        folder = config.spec.out or str(invocation.paths.made)
        made = drafts.files_for(found.drafts, folder, overwrite=config.spec.overwrite)
        drafts.write_files(made)
        files = list(made)
    where = str(files[0]) if len(files) == 1 else str(files[0].parent)
    out.print(f"{counted(len(listed), 'spec')}  {where}", markup=False, highlight=False, soft_wrap=True)
    return run_task(invocation, TaskName.upsample, files=files) if config.then else ExitCode.OK


@dataclass(frozen=True, slots=True)
class _Found:
    """The specs to print and to make, their problems, and the files of those that are in files already."""

    drafts: list[Draft]
    problems: list[str]
    files: tuple[Path, ...] = ()


def _described(config: Config) -> _Found | None:
    """The one spec that the command line describes; None when it describes none."""
    spec = config.spec
    if not (spec.video or spec.name):
        return None
    return _Found(*drafts.draft_of_line(spec.name, spec.prompt, spec.video))


def _clips(config: Config) -> _Found | None:
    """The clips that prompts= names; None when it names prompt files."""
    path = expanded(config.prompts)
    if path.is_dir() and shots.clips_of(path):
        return None
    files = drafts.clips_of_folder(path) if path.is_dir() else matches(config.prompts)
    clips = drafts.clips_among(files)
    if path.is_dir() and (unread := drafts.unread_clips(path)):
        log.get().warning("left_out", files=" ".join(unread), note="unsupported format; convert them to mp4 first")
    if not clips:
        return None
    others = _prompt_files_beside(config.prompts) if path.is_dir() else sorted(set(files) - set(clips))
    if others:
        raise InputError(
            f"prompts={config.prompts}: holds clips ({clips[0].name}, …) and prompt files ({others[0].name}, …)",
            hint=f"name one kind: 'prompts={path / '*' if path.is_dir() else path.parent / '*'}{clips[0].suffix}'",
        )
    return _Found(*drafts.drafts_of_clips(clips, config.spec.prompt))


def _prepare(config: Config, invocation: Invocation) -> None:
    """Make a clip of each folder of frames in the shots that prompts= names; one that is there stays."""
    folder = expanded(config.prompts)
    if not folder.is_dir():
        raise InputError(f"prompts={config.prompts}: spec.prepare=true needs a folder of shots, with frames in folders")
    for clip, frames in shots.sequences_of(folder):
        if clip.exists() and not config.spec.overwrite:
            continue
        part = aside_of(clip)
        try:
            clip_of_frames(part, frames, config.spec.fps, is_colour=shots.is_clip(clip))
        except VideoError as e:
            part.unlink(missing_ok=True)
            raise InputError(f"{clip}: {e.message}") from None
        os.replace(part, clip)
        invocation.print(f"{clip}  of {len(frames)} frames at {config.spec.fps} per second")


def _prompt_files_beside(folder: str) -> list[Path]:
    try:
        return prompt_files(folder)
    except InputError:
        return []


def _listed(config: Config) -> _Found:
    """The specs of prompt files."""
    if config.spec.prompt is not None:
        raise InputError(
            "spec.prompt: is for clips, and these are prompt files",
            hint="name a folder of clips with prompts=, or one clip with spec.video=",
        )
    files, specs, problems = prompt_files(config.prompts, Path(config.cache_dir)), [], []
    try:
        for spec in read_specs(files, reading(config)):
            specs.append(spec)
    except SpecError as e:
        problems = list(e.problems)
    return _Found([Draft.from_spec(spec) for spec in specs], problems, tuple(files))


def _probe(found: _Found, invocation: Invocation) -> tuple[list[Listed], list[str]]:
    """The rows of the table, with every clip probed, and all problems."""
    paths = {draft.video for draft in found.drafts if draft.video}
    with invocation.progress() as progress:
        clips = probe_all(paths, invocation.config, progress.step)
    listed, problems = [], list(found.problems)
    for draft in found.drafts:
        clip = clips[draft.video] if draft.video else None
        wrong = clip.message if isinstance(clip, VideoError) else ""
        video = clip if clip and not isinstance(clip, VideoError) else None
        listed.append(Listed(draft.name, draft.prompt, draft.video, video, wrong))
        problems += [f"{draft.name}: {wrong}"] if wrong else []
    return listed, problems
