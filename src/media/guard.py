"""What one clip may take while it is read: time, and pixels in a frame; and whether it is still wanted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .. import log
from ..errors import HintError, VideoError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

SLOW_S = 10.0  # from then on it is said which clip takes so long

T = TypeVar("T")


@dataclass(slots=True)
class Guard:
    """Watches over the reading of one clip; asked between packets and frames, so that it is heard within one of them.

    is_stopped: whether the program was asked to end.
    """

    clip: str
    max_s: float = float("inf")
    max_pixels: int = 1 << 62
    is_stopped: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    began_s: float = -1.0
    is_slow: bool = False

    def check(self, _: Any = None) -> None:
        """Raises HintError when the program is to end, VideoError when the clip takes too long."""
        if self.is_stopped():
            raise HintError(f"{self.clip}: stopped before it was rendered")
        now_s = self.clock()
        if self.began_s < 0:
            self.began_s = now_s
        if now_s - self.began_s > self.max_s:
            raise VideoError(
                f"{self.clip}: reading its frames takes longer than video.max_render_s={self.max_s:g}",
                hint="encode it again with more key frames, cut it, or raise video.max_render_s",
            )
        if not self.is_slow and now_s - self.began_s > SLOW_S:
            self.is_slow = True
            limit = {"limit_s": round(self.max_s)} if self.max_s < float("inf") else {}
            log.get().warning("clip_is_slow", clip=self.clip, **limit)

    def over(self, pieces: Iterable[T]) -> Iterator[T]:
        """Packets, or whatever else is read one by one, with a check at each."""
        for piece in pieces:
            self.check()
            yield piece

    def frames(self, decoded: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Frames with a check at each. Raises VideoError for one that is larger than a header may say."""
        for frame in decoded:
            self.check()
            if frame.width * frame.height > self.max_pixels:
                raise VideoError(
                    f"{self.clip}: a frame of {frame.width}x{frame.height} is larger than video.max_pixels={self.max_pixels}",
                    hint="its header says otherwise: encode it again, or raise video.max_pixels",
                )
            yield frame
