"""The report of a run, and of runs compared: HTML pages that open from disk and need no network.

A page contains its data as JSON, which its template draws, and thumbnails of the frames, each once; it is written as a
stream. The report of a long run has only what its filters need, and the rest in files beside it, with the frames as they are
in the run folder.
"""

from __future__ import annotations

import base64
import hashlib
import io
import mimetypes
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from ..files import folder_atomic, open_atomic, safe_name
from ..interrupts import threads
from ..line_file import Spool
from ..timing.run_facts import Bar, WindowLine
from ..worker.protocol import STATES
from .compare import Compared, ordinal
from .compare import page_item as compared_item
from .pages import page_template, script_json
from .reviews import ACCEPTED, EDITED, REJECTED
from .rows import FLAGS, STANDALONE_ITEMS, frame_files
from .totals import Totals

COMMAND = "command"  # label, in any case, of the fact that gets a box to copy from
MAX_WIDTH_PX, MIN_WIDTH_PX = 1024, 64
SHOWN_WIDTH_PX = 360  # of a frame beside its texts; the viewer shows it as large as it is
CHUNK_ITEMS = 250  # in each of those files: 0.3 MB
FULL_WIDTH_FRAMES = 1000  # as many thumbnails of SHOWN_WIDTH_PX take 8 MB (drawn clips) to 18 MB (busy ones) as base64

# What a card has of a row unchanged; `page_item` adds the texts and the frames.
_KEYS = ["id", "name", "state", "reason", "note", "attempts", "engine", "tokens", "finish_reason", "seconds"]
_KEYS += ["hint", "shrunk_from"]
_FLAGS = (*FLAGS, ACCEPTED, EDITED, REJECTED)
_SOURCE = ("width_px", "height_px", "fps", "duration_s", "codec")  # of a clip; its path may say much about a machine


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page.

    facts: (label, value) pairs about the run; the one labeled COMMAND gets a box to copy from, Videos links to a page.
    totals: of the rows. rows: of results.json in input order, gone through twice, each with `source`, `hint` (as in plan.json,
    or None) and `frame_files` (absolute PNG paths in order; one that is missing or damaged leads to a placeholder).
    timelines: of phases and of workers, each with its title. windows: requests in flight over the time of each worker.
    failures: why items were not upsampled: state, reason, and how many. retry: the command that retries those that failed.
    embed_mb: clips that a page of up to STANDALONE_ITEMS contains, all or none of them.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    max_model_len: int
    max_output_tokens: int
    totals: Totals
    rows: Iterable[Mapping[str, Any]]
    timelines: tuple[tuple[str, tuple[Bar, ...]], ...] = ()
    windows: tuple[tuple[WindowLine, ...], ...] = ()
    failures: tuple[tuple[str, str, int], ...] = ()
    retry: str = ""
    embed_mb: float = 0.0


def write_report(report: Report, out: Path, written: ItemFiles | None = None) -> None:
    """Write the page aside, then rename it to `out`; creates the folder. Same report and frames: same bytes.

    A report of more than STANDALONE_ITEMS has its items in files in a folder beside it (`data_folder`). written: those files,
    where they were written while the rows were made; the rows are not gone through then.
    """
    with ExitStack() as stack:
        if report.totals.states.total() > STANDALONE_ITEMS:
            if written is None:
                written = stack.enter_context(item_files(out))
                for row in report.rows:
                    written.add(row)
            page = _page(report, written.index(), [], {}, 0.0, data_folder(out).name)
        else:
            number_of, pictures, clips = _media_of(report.rows)
            clips_mb = sum(clips.values()) / 1e6
            inside = {clip: n for n, clip in enumerate(clips)} if clips_mb <= report.embed_mb else {}
            items = (
                page_item(
                    row,
                    [number_of[file] for file in row["frame_files"]],
                    inside.get(_clip_path(row), _clip_of(row, out.parent)),
                )
                for row in report.rows
            )
            page = _page(report, map(script_json, items), pictures, inside, clips_mb)
        with open_atomic(out, errors="replace") as f:  # half a surrogate pair in a text must not prevent the report
            f.writelines(page)


def _media_of(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, int | None], list[str], dict[str, int]]:
    """The frames of rows, as `distinct_frames` has them, and their clips that are there, with the bytes of each."""
    files, clips = dict[str, None](), dict[str, int]()
    for row in rows:
        files.update(dict.fromkeys(row["frame_files"]))
        if (clip := _clip_path(row)) and clip not in clips and os.path.isfile(clip):
            clips[clip] = os.path.getsize(clip)
    return *distinct_frames(files), clips


def _page(
    report: Report,
    items: Iterable[Markup],
    pictures: Sequence[str],
    clips: Collection[str],
    clips_mb: float,
    beside: str = "",
) -> Iterator[str]:
    """The page as a stream. clips: those that it contains, of `clips_mb`. beside: the folder of its items, "" for a page that
    stands alone."""
    totals, flags = report.totals, report.totals.flags + report.totals.verdicts
    width_px = SHOWN_WIDTH_PX if beside else thumbnail_width(len(pictures))
    return page_template("report.html.j2").generate(
        title=report.title,
        facts=[fact for fact in report.facts if fact[0].casefold() != COMMAND],
        commands=[value for label, value in report.facts if label.casefold() == COMMAND],
        counts=[(state, totals.states[state]) for state in STATES],
        flags={flag: flags[flag] for flag in _FLAGS},
        timelines=report.timelines,
        windows=report.windows,
        failures=report.failures,
        retry=report.retry,
        clips=map(_embedded, clips),
        clips_mb=clips_mb,
        embeds=bool(clips),
        offline=totals.is_offline,
        thumbnail_px=width_px,
        budget={"max_model_len": report.max_model_len, "max_output_tokens": report.max_output_tokens},
        chunk=CHUNK_ITEMS if beside else 0,
        beside=beside,
        items=items,
        frames=thumbnails(pictures, width_px),
    )


def _embedded(clip: str) -> tuple[str, str]:
    """The media type of a clip, and its content as base64."""
    return mimetypes.guess_type(clip)[0] or "video/mp4", base64.b64encode(Path(clip).read_bytes()).decode()


def data_folder(page: Path) -> Path:
    """Where the items of a long report are."""
    return page.with_name(f"{page.stem}_data")


class ItemFiles:
    """The items of a long report, CHUNK_ITEMS a file, and its index: what the filters of the page need of each item."""

    def __init__(self, folder: Path, root: Path) -> None:
        """root: the folder of the page, from which files are named."""
        self._folder, self._root, self._index = folder, root, Spool(root)
        self._chunk, self._number = list[dict[str, Any]](), 0

    def add(self, row: Mapping[str, Any]) -> None:
        frames = [_address(file, self._root) for file in row["frame_files"]]
        self._chunk.append(page_item(row, frames, _clip_of(row, self._root, stays=True)))
        if len(self._chunk) == CHUNK_ITEMS:
            self._write()

    def _write(self) -> None:
        text = f"reportChunk({self._number},{script_json(self._chunk)});\n"
        (self._folder / f"{self._number:05}.js").write_text(text, encoding="utf-8", errors="replace")
        for item in self._chunk:
            self._index.write(f"{script_json(_short(item))}\n".encode(errors="replace"))
        self._chunk, self._number = [], self._number + 1

    def index(self) -> Iterator[Markup]:
        """Of all that were added, to the last, which ends that."""
        if self._chunk:
            self._write()
        return (Markup(line.decode().rstrip("\n")) for line in self._index.lines())


@contextmanager
def item_files(page: Path) -> Iterator[ItemFiles]:
    """Files beside a page for its items, which are there when the block ends well."""
    with folder_atomic(data_folder(page)) as folder:
        yield ItemFiles(folder, page.parent)


def _short(item: Mapping[str, Any]) -> tuple[Any, ...]:
    """Name, numbers of its state and its flags, tokens, seconds, words, and its slug where that is not its name."""
    kind = (STATES.index(item["state"]), [_FLAGS.index(flag) for flag in item["flags"]])
    slug = [item["slug"]] if item["slug"] != item["name"] else []
    return (item["name"], *kind, item["tokens"]["predicted"], item["seconds"], item["words"], *slug)


def _clip_of(row: Mapping[str, Any], root: Path, *, stays: bool = False) -> str | None:
    """The address of a clip, for a page that stays in its run folder; for one that may be sent only where the path says nothing
    about this machine, else that of the hint video."""
    clip, hint = _clip_path(row), row["preprocessed_video"]
    if clip and (stays or Path(clip).absolute().is_relative_to(Path.cwd())):
        return _address(clip, root)
    return quote(hint) if hint else None


def _clip_path(row: Mapping[str, Any]) -> str:
    """The file of a clip, "" for none: `video_path` is as the prompt file has it."""
    return str((row["source"] or {}).get("path", ""))


@lru_cache(maxsize=65_536)  # many items share a clip and its frames
def _address(file: str, root: Path) -> str:
    """A file as the page links to it: relative, so that the run folder can be moved."""
    return quote(os.path.relpath(file, root))


def write_comparison(sides: Sequence[Mapping[str, str]], items: Sequence[Compared], out: Path) -> None:
    """Write the page of runs side by side; `sides` are `compare.facts` of each, with its folder as `run`."""
    files = [
        [frame_files(Path(side["run"]), row) for side, row in zip(sides, item.rows, strict=True)] for item in items
    ]
    number_of, pictures = distinct_frames(file for item in files for side in item for file in side)
    width_px = thumbnail_width(len(pictures))
    numbers = ([[number_of[file] for file in side] for side in item] for item in files)
    page = page_template("compare.html.j2").generate(
        facts=[(label, [side[label] for side in sides]) for label in sides[0]],
        runs=[f"{side['run']} · {side['target' if _differ(sides, 'target') else 'recipe']}" for side in sides],
        names=[ordinal(n) for n in range(len(sides))],
        count=len(items),
        differ=sum(item.differs for item in items),
        states_differ=sum(item.states_differ for item in items),
        thumbnail_px=width_px,
        items=(compared_item(item, frames) for item, frames in zip(items, numbers, strict=True)),
        frames=thumbnails(pictures, width_px),
    )
    with open_atomic(out, errors="replace") as f:
        f.writelines(page)


def _differ(sides: Sequence[Mapping[str, str]], label: str) -> bool:
    return len({side.get(label) for side in sides}) > 1


def distinct_frames(files: Iterable[str]) -> tuple[dict[str, int | None], list[str]]:
    """The number of the picture in each file, by content (None: cannot be read), and one file for each picture."""
    number_of: dict[str, int | None] = {}
    by_content: dict[bytes, int] = {}
    pictures: list[str] = []
    for file in dict.fromkeys(files):
        try:
            content = hashlib.sha256(Path(file).read_bytes()).digest()
        except OSError:
            number_of[file] = None
            continue
        number_of[file] = by_content.setdefault(content, len(pictures))
        if number_of[file] == len(pictures):
            pictures.append(file)
    return number_of, pictures


def thumbnail_width(distinct_frames: int) -> int:
    """Width in pixels that keeps all thumbnails within about 18 MB; from 10,000 frames on it is the smallest that is useful,
    and below 250 it is more than models see.

    The exponent is measured: a WebP grows as width ** 1.33, since small pictures have more detail per pixel.
    """
    width_px = int(SHOWN_WIDTH_PX * (FULL_WIDTH_FRAMES / max(1, distinct_frames)) ** 0.75)
    return max(MIN_WIDTH_PX, min(MAX_WIDTH_PX, width_px))


def thumbnails(files: Sequence[str], width_px: int) -> Iterator[str | None]:
    """Base64 WebP of each file in order, at most `width_px` wide and high; None where it is not a readable picture."""
    with threads(os.cpu_count() or 1) as pool:  # Pillow releases the interpreter lock while it encodes
        yield from pool.map(lambda file: _thumbnail(file, width_px), files)


def _thumbnail(file: str, width_px: int) -> str | None:
    buffer = io.BytesIO()
    try:
        with Image.open(file) as image:
            picture = image.convert("RGB")
        picture.thumbnail((width_px, width_px), Image.Resampling.LANCZOS)
        picture.save(buffer, "WEBP", quality=75)
    except Exception:  # whatever Pillow raises for a damaged file: the page has a placeholder for it
        return None
    return base64.b64encode(buffer.getvalue()).decode()


def _flags(row: Mapping[str, Any]) -> list[str]:
    """The flags of a row, the review verdict included."""
    return [*row["flags"], *([row["review"]["verdict"]] if row.get("review") else [])]


def page_item(
    row: Mapping[str, Any], frames: Sequence[int | str | None], clip: int | str | None = None
) -> dict[str, Any]:
    """What the page needs of a row. `quoted`: `after` is only what was added after the original prompt. clip: its address, or
    its number among those in the page."""
    before, after = row["original_prompt"], row["upsampled_prompt"]
    quoted = bool(before) and after is not None and after.startswith(before)
    texts = {"before": before, "after": after[len(before) :] if quoted else after, "quoted": quoted}
    return {
        "slug": safe_name(row["name"]),
        **{key: row[key] for key in _KEYS},
        "source": {key: row["source"][key] for key in _SOURCE} if row["source"] else None,
        **texts,
        "words": len((after or "").split()),
        "frames": frames,
        "clip": clip,
        "flags": _flags(row),
        "answer": (row.get("review") or {}).get("answer"),
    }
