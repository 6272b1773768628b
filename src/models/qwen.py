"""Qwen-VL: Qwen2.5-VL (Cosmos-Reason1), Qwen3-VL (Cosmos-Reason2, Cosmos 3 reasoner) and Qwen3.5.

Sizes follow `smart_resize` of transformers' Qwen2-VL and Qwen3-VL processors, the choice of a clip's frames vLLM's loaders, and
the messages the chat templates of the checkpoints.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from ..media import geometry
from ..media.geometry import Size
from .family import CountText, Media

Range = tuple[int, int]  # least and most pixels
MAX_ASPECT = 200  # a longer picture is refused
BRACKETS = 2  # the tokens around an image, around a clip, and around each group of a clip's frames
CLIP_FPS = 2.0  # frames per second that the server keeps of a clip
LEAST_FRAMES, MOST_FRAMES = 4, 768
FRAME_CAP = 768  # tokens per frame of a clip, from transformers 5.22 on (`cap_pixels_per_frame`)
DEFAULT_SYSTEM_TOKENS = 11  # Qwen2.5 writes "You are a helpful assistant." itself


@dataclass(frozen=True, slots=True)
class Qwen:
    """token_px: edge of the square that becomes one token. image_pixels, clip_pixels: the ranges of the checkpoint's
    processors; that of a clip is for all its frames together, but for one frame where `frame_by_frame` (Qwen2.5-VL).

    default_system: a system message is written where none is given. opening: tokens with which the template begins the
    answer, a think block. strips: white space around a message is dropped. capped: frames of a clip are limited to 768 tokens.
    """

    count: CountText
    token_px: int
    image_pixels: Range
    clip_pixels: Range
    reserved: tuple[str, ...]
    frame_by_frame: bool = False
    default_system: bool = False
    opening: int = 0
    strips: bool = False
    capped: bool = False
    note: str = ""
    verified: bool = True

    def media_tokens(self, size: Size, media: Media) -> int:
        seen = self.seen(size, media)
        tokens = seen.width_px * seen.height_px // self.token_px**2
        if media.clip_fps is None:
            return (tokens + BRACKETS) * media.frames
        kept = self.kept(media.frames, media.clip_fps)
        if self.frame_by_frame:
            return BRACKETS + len(kept) // 2 * tokens
        kept += kept[-1:] * (len(kept) % 2)
        times_s = [
            (first / media.clip_fps + second / media.clip_fps) / 2
            for first, second in zip(kept[::2], kept[1::2], strict=True)
        ]
        return BRACKETS + sum(3 + len(f"{time_s:.1f}") + BRACKETS + tokens for time_s in times_s)  # "<T seconds>"

    def kept(self, frames: int, fps: float) -> list[int]:
        """Indices of the frames that the server keeps of a clip."""
        wanted = frames / fps * CLIP_FPS
        if self.frame_by_frame:
            n = math.floor(min(max(wanted, LEAST_FRAMES), MOST_FRAMES, math.floor(frames / 2) * 2) / 2) * 2
            return [min(int(i * frames / n), frames - 1) for i in range(n)]
        n = min(max(int(wanted), LEAST_FRAMES), MOST_FRAMES, frames)
        return [round(i * (frames - 1) / (n - 1)) for i in range(n - 1)] + [frames - 1]

    def wrapper_tokens(self, system: str) -> int:
        """Per message <|im_start|>, role, line feed, <|im_end|>, line feed; and the head of the answer."""
        head = 8 + self.opening
        return head + 5 if system else head + DEFAULT_SYSTEM_TOKENS if self.default_system else head

    def text_tokens(self, system: str, text: str, *, with_media: bool) -> int:
        """A role is counted together with the text that stands right after it: a leading line feed merges with its own."""
        counted = self._count(f"system\n{self._stripped(system)}") - 2 if system else 0
        if with_media:  # the message begins with them: only white space after the text is around it
            return counted + self._count(text.rstrip() if self.strips else text)
        return counted + self._count(f"user\n{self._stripped(text)}") - 2

    def _stripped(self, text: str) -> str:
        return text.strip() if self.strips else text

    def _count(self, text: str) -> int:
        return self.count(unicodedata.normalize("NFC", text))

    def seen(self, size: Size, media: Media) -> Size:
        if media.clip_fps is None:
            return self._fitted(size, self.image_pixels, 1, 1)
        if self.frame_by_frame:
            return self._fitted(size, self.clip_pixels, 1, 1)
        n = len(self.kept(media.frames, media.clip_fps))
        least, most = self.clip_pixels
        if self.capped:
            most = max(min(FRAME_CAP * self.token_px**2, most // n), int(least * 1.05)) * n
        short = min(size.width_px, size.height_px)
        if short < self.token_px:
            scale = max(self.token_px / size.width_px, self.token_px / size.height_px)
            size = Size(int(size.width_px * scale), int(size.height_px * scale))
        return self._fitted(size, (least, most), n, round(n / 2) * 2)

    def _fitted(self, size: Size, pixels: Range, frames: int, counted: int) -> Size:
        """The nearest multiples of a token's square, scaled into the range where all frames are outside of it.

        counted: the frames that are compared with the range, which for an odd number are not those that set the scale.
        """
        (least, most), px, w, h = pixels, self.token_px, size.width_px, size.height_px
        width, height = round(w / px) * px, round(h / px) * px
        if counted * width * height > most:
            by = math.sqrt(frames * w * h / most)
            width, height = max(px, math.floor(w / by / px) * px), max(px, math.floor(h / by / px) * px)
        elif counted * width * height < least:
            by = math.sqrt(least / (frames * w * h))
            width, height = math.ceil(w * by / px) * px, math.ceil(h * by / px) * px
        return Size(width, height)

    def largest(self, source: Size, media: Media) -> Size:
        return self.worth(geometry.even(source), source, media)

    def worth(self, size: Size, source: Size, media: Media) -> Size:
        """What the engine makes of a size, unless that is larger than the clip."""
        seen = self.seen(size, media)
        inside = seen.width_px <= source.width_px and seen.height_px <= source.height_px
        return seen if inside else size

    def sizes(self, source: Size, media: Media) -> tuple[Size, ...]:
        """Multiples of a token's square, near the clip's aspect: what the engine would scale to is what it is sent."""
        return _sizes(self, source, media)

    def refusal(self, size: Size, media: Media) -> str:
        if max(size.width_px, size.height_px) > MAX_ASPECT * min(size.width_px, size.height_px):
            return f"the model refuses pictures longer than {MAX_ASPECT} to 1, as {size} is"
        if media.clip_fps is not None and media.frames < 2:
            return "the model refuses a clip of one frame: frames=head_1 sends it as a picture"
        return ""


@lru_cache(maxsize=4096)
def _sizes(family: Qwen, source: Size, media: Media) -> tuple[Size, ...]:
    largest = family.largest(source, media)
    most = largest.width_px * largest.height_px
    found = {family.worth(size, source, media) for size in geometry.aligned_sizes(source, geometry.even(source))}
    smaller = {size for size in found if size.width_px * size.height_px < most}
    return largest, *sorted(smaller, key=lambda s: (s.width_px * s.height_px, s.width_px), reverse=True)
