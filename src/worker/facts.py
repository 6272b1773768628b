"""What can be measured in frames: framing, light, colors, change. It needs numpy and Pillow."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WORDING = 1  # of `in_words`; incremented when the same frames give other words

# Names for colors that people use, with a typical RGB value of each.
_COLOURS = {
    "black": (20, 20, 20), "gray": (128, 128, 128), "white": (240, 240, 240), "red": (190, 40, 40),
    "orange": (230, 130, 40), "brown": (110, 75, 45), "yellow": (230, 210, 70), "green": (60, 140, 60),
    "teal": (40, 130, 130), "blue": (50, 90, 180), "pale blue": (150, 190, 225), "purple": (120, 70, 150),
    "pink": (230, 150, 180), "beige": (215, 195, 165), "dark blue": (25, 35, 75), "dark green": (25, 60, 35),
}  # fmt: skip
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured. Light and contrast are shares of full scale (0 to 1), of luma; change likewise, between the
    first and the last frame; colors are (name, share of the pixels)."""

    width_px: int
    height_px: int
    frames: int
    light: float
    contrast: float
    colors: tuple[tuple[str, float], ...]
    lighter_side: str
    change: float | None
    changing_part: str


def measure(frames: list[NDArray[np.uint8]]) -> Facts:
    """Facts of frames of shape (height, width, 3), RGB."""
    first = frames[0]
    luma = np.stack([frame @ _LUMA for frame in frames]) / 255.0
    height, width = first.shape[:2]
    change, where = None, ""
    if len(frames) > 1:
        difference = np.abs(luma[-1] - luma[0])
        change = float(difference.mean())
        where = _heaviest(difference)
    light, contrast = float(luma.mean()), float(luma.std())
    return Facts(width, height, len(frames), light, contrast, _colors(first), _heaviest(luma[0]), change, where)


def _colors(frame: NDArray[np.uint8]) -> tuple[tuple[str, float], ...]:
    """The three colors that most of the pixels are nearest to."""
    pixels = frame[::4, ::4].reshape(-1, 3).astype(np.float32)
    palette = np.array(list(_COLOURS.values()), dtype=np.float32)
    nearest = np.argmin(((pixels[:, None, :] - palette[None]) ** 2).sum(axis=2), axis=1)
    shares = np.bincount(nearest, minlength=len(palette)) / len(pixels)
    names = list(_COLOURS)
    order = sorted(range(len(names)), key=lambda i: (-shares[i], names[i]))[:3]
    return tuple((names[i], float(shares[i])) for i in order if shares[i] >= 0.05)


def _heaviest(plane: NDArray[np.floating[Any]]) -> str:
    """The third of a picture in which a quantity is strongest, in words."""
    rows = [float(part.mean()) for part in np.array_split(plane, 3, axis=0)]
    columns = [float(part.mean()) for part in np.array_split(plane, 3, axis=1)]
    if max(rows) - min(rows) >= max(columns) - min(columns):
        return ("upper third", "middle", "lower third")[int(np.argmax(rows))]
    return ("left third", "center", "right third")[int(np.argmax(columns))]


def measure_files(files: Sequence[bytes]) -> Facts:
    """Facts of frames as PNG."""
    return measure([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def describe(facts: Facts) -> str:
    """The facts as English sentences."""
    shape, light, contrast = _looks(facts, "portrait", "landscape")
    sentences = [
        f"The shot is framed in {shape} format and is {light}, with {contrast} contrast "
        f"(mean luma {facts.light:.1%}, deviation {facts.contrast:.1%}).",
        f"The light is strongest in the {facts.lighter_side} of the picture.",
    ]
    if facts.colors:
        named = [f"{name} ({share:.0%})" for name, share in facts.colors]
        sentences.append(f"The dominant color{'s are' if len(named) > 1 else ' is'} {_joined(named)}.")
    if facts.change is not None:
        amount = _word(facts.change, (0.002, "hardly anything"), (0.03, "little"), (0.1, "a good part"), (1.01, "most"))
        sentences.append(
            f"Between the first and the last of {facts.frames} frames {amount} of the picture changes "
            f"(mean difference {facts.change:.2%}), most of all in the {facts.changing_part}."
        )
    return " ".join(sentences)


def in_words(facts: Facts) -> str:
    """The facts as sentences without figures, for a model that sees no frames."""
    shape, light, contrast = _looks(facts, "vertical", "wide")
    sentences = [f"The shot is {shape} and {light}, with {contrast} contrast."]
    if facts.colors:
        sentences.append(f"The main colors are {_joined([name for name, _ in facts.colors])}.")
    if facts.change is not None:
        amount = _word(facts.change, (0.002, "Nothing"), (0.03, "Little"), (0.1, "Much"), (1.01, "Nearly everything"))
        where = "" if facts.change < 0.002 else f", mostly in the {facts.changing_part}"
        sentences.append(f"{amount} moves{where}.")
    return " ".join(sentences)


def _looks(facts: Facts, tall: str, wide: str) -> tuple[str, str, str]:
    """Shape, light and contrast in words."""
    shape = tall if facts.height_px > facts.width_px else "square" if facts.height_px == facts.width_px else wide
    light = _word(facts.light, (0.2, "dark"), (0.4, "dim"), (0.65, "evenly lit"), (1.01, "bright"))
    return shape, light, _word(facts.contrast, (0.1, "soft"), (0.22, "moderate"), (1.01, "strong"))


def _word(value: float, *steps: tuple[float, str]) -> str:
    return next(word for limit, word in steps if value < limit)


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
