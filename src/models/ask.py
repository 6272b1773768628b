"""Any other model: a running server counts (`/tokenize`), once for each kind of request, or nothing does.

`Asked` counts a request as the sum of what its pictures and its texts cost, each measured by itself; `Estimated` only guesses,
so that items can be batched, and its items are checked against nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ..errors import InputError
from ..media import geometry
from ..media.encode import blank_clip
from ..media.geometry import Size
from ..worker.chat import chat_body
from ..worker.job_settings import EngineSettings, ModelSettings
from .endpoint_counts import ServerCounts
from .family import Media
from .gguf import GgufServer
from .render_server import RenderServer

PROBE = "x"  # the text beside pictures that are measured
SMALL = Size(64, 64)  # the picture beside texts that are measured
MAX_SIDE_PX = 2048  # no larger frame is tried with a model whose rule is not known
STEP_PX = 32  # between the widths that are tried
NEVER = 1 << 40  # tokens of what the server refuses
Count = Callable[[str, str, Size, Media], int | str]  # tokens of a request, or why the server refuses it


@dataclass(frozen=True, slots=True)
class Asked:
    """count: tokens of a request with these messages and pictures; 0 frames for none."""

    count: Count
    verified: bool = True
    reserved: tuple[str, ...] = ()
    note: str = "Tokens were counted by the server itself (model.family=ask)."

    def media_tokens(self, size: Size, media: Media) -> int:
        found, text = self.count("", PROBE, size, media), self.count("", PROBE, size, Media(0))
        return NEVER if isinstance(found, str) or isinstance(text, str) else found - text

    def wrapper_tokens(self, system: str) -> int:
        return 0  # the server counts it with the texts

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        if with_media and (why := self.refusal(SMALL, Media(1))):
            raise InputError(
                why, hint="does model.mmproj belong to this model? model.text_only=true does without pictures"
            )
        found = self.count(system, text, SMALL, Media(1 if with_media else 0))
        if isinstance(found, str):
            raise InputError(f"the server counts no tokens for a text that starts {text[:40]!r}: {found}")
        return found - self.media_tokens(SMALL, Media(1)) if with_media else found

    def seen(self, size: Size, media: Media) -> Size:
        return size

    def largest(self, source: Size, media: Media) -> Size:
        return geometry.visible(source, MAX_SIDE_PX)

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        """A ladder, for each step of it is a question."""
        largest = self.largest(source, media)
        sizes = {geometry.at_width(source, width) for width in range(STEP_PX, largest.width_px, STEP_PX)}
        inside = (size for size in sizes if size.height_px <= largest.height_px)
        return tuple(sorted({largest, *inside}, key=lambda s: (s.width_px * s.height_px, s.width_px), reverse=True))

    def refusal(self, size: Size, media: Media) -> str:
        found = self.count("", PROBE, size, media)
        return f"the server refuses such pictures: {found}" if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True)
class Estimated:
    """A guess of the usual size: a token for 28 x 28 px and for 4 characters."""

    verified: bool = False
    reserved: tuple[str, ...] = ()
    note: str = (
        "Tokens are estimates, checked against nothing (model.family=unverified): the server's own count stands."
    )

    def media_tokens(self, size: Size, media: Media) -> int:
        return (math.ceil(size.width_px * size.height_px / 28**2) + 2) * media.frames

    def wrapper_tokens(self, system: str) -> int:
        return 16

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        return math.ceil(len((system + text).encode()) / 4)

    def seen(self, size: Size, media: Media) -> Size:
        return size

    def largest(self, source: Size, media: Media) -> Size:
        return geometry.visible(source, MAX_SIDE_PX)

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        return geometry.aligned_sizes(source, self.largest(source, media))

    def refusal(self, size: Size, media: Media) -> str:
        return ""


class Counter(Protocol):
    """What counts. identity: stands for it in the cache of its counts."""

    def identity(self) -> str: ...
    def tokens(self, messages: Mapping[str, Any]) -> int | str: ...


def server_count(model: ModelSettings, engine: EngineSettings, cache_dir: Path, python: str) -> Count:
    """A function that asks the server of engine=endpoint, or one on this machine, and nothing before it is called; answers are
    kept in cache_dir, one file for each model that is served."""

    @lru_cache(maxsize=1)
    def opened() -> tuple[Counter, Path, dict[str, int | str]]:
        server = _counter(model, engine, python)
        file = cache_dir / "asked" / f"{server.identity()}.jsonl"
        return server, file, _kept(file)

    def count(system: str, text: str, size: Size, media: Media) -> int | str:
        server, file, known = opened()
        shape = [str(size), media.frames] if media.frames else []
        key = hashlib.sha256(json.dumps([system, text, shape, *map(asdict, model.examples)]).encode()).hexdigest()[:24]
        if key not in known:
            known[key] = server.tokens(chat_body(system, text, [_blank(size)] * media.frames, model.examples))
            file.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "a", encoding="ascii") as f:
                f.write(json.dumps([key, known[key]]) + "\n")
        return known[key]

    return count


def _counter(model: ModelSettings, engine: EngineSettings, python: str) -> Counter:
    if engine.name == "endpoint":
        return ServerCounts(model, engine)
    if model.gguf:
        return GgufServer(model, engine)
    return RenderServer(model, engine, python)


def _kept(file: Path) -> dict[str, int | str]:
    """The counts in a file of the cache, but for lines that are torn or damaged."""
    found: dict[str, int | str] = {}
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else ():
        with suppress(ValueError, RecursionError):
            match json.loads(line):
                case [str(key), int() | str() as count]:
                    found[key] = count
    return found


def count_clip(model: ModelSettings, engine: EngineSettings, size: Size, frames: int, fps: int) -> int | str:
    """What the server counts for a clip of a shape beside PROBE."""
    return ServerCounts(model, engine).tokens(chat_body("", PROBE, [blank_clip(size, frames, fps)]))


@lru_cache(maxsize=256)
def _blank(size: Size) -> bytes:
    """A black PNG of a size: tokens do not depend on what a picture shows."""
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", (size.width_px, size.height_px)).save(out, "PNG")
    return out.getvalue()
