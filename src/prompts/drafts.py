"""Specs before they are files: made from clips, from the command line or from another prompt list."""

from __future__ import annotations

import json
import mimetypes
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import safe_name, write_atomic
from ..media.video import Video
from .fields import VIDEO_FIELDS, VIDEO_SUFFIXES, other_fields
from .paths import expanded
from .specs import MAX_TEXT_BYTES, PromptSpec, UniqueNames, problems_of


@dataclass(frozen=True, slots=True)
class Draft:
    """A future spec: `fields` is the PromptSpec without its video's path, which depends on where the file will be."""

    name: str
    prompt: str
    video: Path | None
    fields: dict[str, Any]

    @staticmethod
    def of(name: str, prompt: str, video: Path | None) -> Draft:
        return Draft(name, prompt, video, {"name": name, "prompt": prompt, "video_path": None})

    @staticmethod
    def from_spec(spec: PromptSpec) -> Draft:
        """Unknown fields are kept; those that hold the prompt and the clip get their usual names."""
        own = {"name": spec.name, "prompt": spec.prompt, "video_path": None}
        path = {name: spec.raw[name] for name in ("video_path",) if name in spec.raw}
        return Draft(spec.name, spec.prompt, spec.video, own | path | other_fields(spec.raw, spec.found))


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the table of specs; problem: why its clip cannot be used."""

    name: str
    prompt: str
    path: Path | None
    video: Video | None
    problem: str


def clips_among(files: Sequence[Path]) -> list[Path]:
    return [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]


def unread_clips(folder: Path) -> list[str]:
    """Names of the files in a folder that are clips by their suffix, and of a kind that is not read."""
    return sorted(
        name
        for name in os.listdir(folder)
        if (mimetypes.guess_type(name)[0] or "").startswith("video/")
        and Path(name).suffix.lower() not in VIDEO_SUFFIXES
        and name[0] != "."
    )


def clips_of_folder(folder: Path) -> list[Path]:
    """The clips in a folder, sorted."""
    return sorted(p for p in clips_among(list(folder.iterdir())) if p.name[0] != "." and p.is_file())


def drafts_of_clips(clips: Iterable[Path], prompt: str | None) -> tuple[list[Draft], list[str]]:
    """One draft per clip, named after it, and the problems. prompt None: from the text file next to each clip, if any."""
    names, drafts, problems = UniqueNames(), [], []
    for clip in clips:
        try:
            text = _text_next_to(clip) if prompt is None else prompt
        except ValueError as e:
            problems.append(str(e))
            continue
        draft = Draft.of(names.free(clip.stem), text, Path(os.path.abspath(clip)))
        drafts.append(draft)
        problems += [f"{clip}, {field}: {what}" for field, what in problems_of(draft.fields | _as_path(draft, "."))]
    return drafts, problems


def _text_next_to(clip: Path) -> str:
    """The text of clip.txt next to clip.mp4, "" without one. ValueError for one that is not a short UTF-8 text."""
    file = clip.with_suffix(".txt")
    if not file.is_file():
        return ""
    try:
        if file.stat().st_size > MAX_TEXT_BYTES:
            raise ValueError(f"{file}: is larger than {MAX_TEXT_BYTES} bytes, too long for a prompt")
        return file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as e:
        raise ValueError(f"{file}: is not UTF-8 (byte {e.start}: {e.reason}); save it as UTF-8") from None
    except OSError as e:
        raise ValueError(f"{file}: cannot be read: {e.strerror}") from None


def draft_of_line(name: str, prompt: str | None, video: str) -> tuple[list[Draft], list[str]]:
    """The one draft that the command line describes, and what is wrong with it."""
    path = Path(os.path.abspath(expanded(video))) if video else None
    draft = Draft.of(name or (path.stem if path else ""), prompt or "", path)
    if path and prompt is None:
        try:
            draft = Draft.of(draft.name, _text_next_to(path), path)
        except ValueError as e:
            return [draft], [str(e)]
    return [draft], [f"spec.{field}: {what}" for field, what in problems_of(draft.fields | _as_path(draft, "."))]


def _as_path(draft: Draft, folder: str | Path) -> dict[str, str]:
    """The fields of a draft that name its video, as a file in this folder has them."""
    if not draft.video:
        return {}
    named = [field for field in VIDEO_FIELDS if draft.fields.get(field)] or [VIDEO_FIELDS[0]]
    return dict.fromkeys(named, os.path.relpath(draft.video, os.path.abspath(folder)))


def files_for(drafts: Sequence[Draft], out: str, *, overwrite: bool) -> dict[Path, str]:
    """What to write where: one PromptSpec file per draft in the folder `out`, or one list where `out` ends in .json.

    Raises InputError where a file exists and may not be overwritten.
    """
    target = expanded(out)
    if target.suffix.lower() == ".json":
        specs = [draft.fields | _as_path(draft, target.parent) for draft in drafts]
        files = {target: "[\n" + ",\n".join(json.dumps(spec, ensure_ascii=False) for spec in specs) + "\n]\n"}
    else:
        if target.exists() and not target.is_dir():
            raise InputError(f"spec.out={out}: is a file", hint="name a folder, or a list that ends in .json")
        slugs = UniqueNames()
        files = {
            target / f"{slugs.free(safe_name(draft.name))}.json": json.dumps(
                draft.fields | _as_path(draft, target), ensure_ascii=False, indent=1
            )
            + "\n"
            for draft in drafts
        }
    existing = [] if overwrite else [str(file) for file in files if os.path.lexists(file)]
    if existing:
        more = f" and {len(existing) - 3} more" if len(existing) > 3 else ""
        raise InputError(
            f"spec.out={out}: {', '.join(existing[:3])}{more} would be overwritten; nothing was written",
            hint="choose another spec.out, or overwrite with spec.overwrite=true",
        )
    return files


def write_files(files: dict[Path, str]) -> None:
    for file, text in files.items():
        write_atomic(file, text)
