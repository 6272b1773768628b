"""Test cards: short synthetic clips of any size, labeled with it. Home of moviepy."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import HintError
from ..media.geometry import Size

if TYPE_CHECKING:
    from PIL import Image

SLOTS = 8  # as many frames as a prompt has at most, but for one that is a whole clip


def calibration_clip(size: Size, fps: float, cache: Path, count: int = SLOTS) -> Path:
    """A clip of this size with so many frames, and 8 at least, of 8 kinds at `fps`, from the cache or made now.

    Color bars with the size written on them and a block that moves from frame to frame. H.264 without chroma
    subsampling, so that odd sizes keep their last row and column. Raises HintError when it cannot be written.
    """
    count = max(count, SLOTS)
    path = cache / f"{size}-{fps:g}fps{f'-{count}' if count > SLOTS else ''}.mp4"
    if path.exists():
        return path
    import numpy as np
    from moviepy import VideoClip

    frames = [np.asarray(_picture(size, n)) for n in range(SLOTS)]
    clip = VideoClip(lambda t: frames[min(round(t * fps), count - 1) % SLOTS], duration=(count + 0.01) / fps)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{secrets.token_hex(4)}.mp4")
    try:
        clip.write_videofile(
            str(aside), fps=fps, codec="libx264", audio=False, logger=None, pixel_format="yuv444p", threads=1
        )
        os.replace(aside, path)
    except (OSError, ValueError) as e:
        aside.unlink(missing_ok=True)
        raise HintError(f"the test clip of {size} cannot be made: {e}") from e
    return path


_BARS = ("#c0c0c0", "#c0c000", "#00c0c0", "#00c000", "#c000c0", "#c00000", "#0000c0")


def _picture(size: Size, number: int) -> Image.Image:
    """Frame `number`: bars, the size in the middle, and a block a slot further to the right in each frame."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = size.width_px, size.height_px
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for n, color in enumerate(_BARS):
        draw.rectangle((n * width // len(_BARS), 0, width, height), fill=color)
    text = f"{size}  #{number + 1}"
    font = ImageFont.load_default(max(8, min(width // 10, height // 4)))
    left, top, right, bottom = draw.textbbox((width // 2, height // 2), text, font=font, anchor="mm")
    draw.rectangle((left - 4, top - 4, right + 4, bottom + 4), fill="black")
    draw.text((width // 2, height // 2), text, font=font, anchor="mm", fill="white")
    draw.rectangle((number * width // SLOTS, height * 9 // 10, (number + 1) * width // SLOTS, height), fill="white")
    return picture
