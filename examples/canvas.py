"""A small smooth-edged drawing surface for the scenes of `make_clips.py`."""

from math import cos, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter

Points = NDArray[np.float64]
# 255 in the middle, falling to 0 at the rim of the inscribed circle.
RADIAL = Image.radial_gradient("L").point([max(0, 255 - v * 362 // 256) for v in range(256)])


def pts(text: str) -> Points:
    """Read "x,y x,y ..." as an array of points."""
    return np.array([pair.split(",") for pair in text.split()], dtype=float)


def smooth(shape: Points) -> Points:
    """Round the corners of a closed outline (Chaikin's corner cutting)."""
    for _ in range(3):
        after = np.roll(shape, -1, axis=0)
        cuts = [0.75 * shape + 0.25 * after, 0.25 * shape + 0.75 * after]
        shape = np.stack(cuts, axis=1).reshape(-1, 2)
    return shape


def place(shape: Points, x: float, y: float, size: float = 1, turn: float = 0) -> Points:
    """Scale an outline, turn it clockwise (radians), and move it to x, y."""
    spin = np.array([[cos(turn), sin(turn)], [-sin(turn), cos(turn)]])
    moved: Points = size * shape @ spin + np.array([x, y])
    return moved


def ease(t: float, start: float, end: float) -> float:
    """Go smoothly from 0 at `start` to 1 at `end`."""
    s = min(max((t - start) / (end - start), 0.0), 1.0)
    return s * s * (3 - 2 * s)


class Canvas:
    """A picture drawn in scene units; colours may carry alpha (#rrggbbaa).

    `scale` is drawn pixels per unit; `pixels` halves them, which smooths the edges.
    """

    def __init__(self, width: int, height: int, scale: int = 2) -> None:
        self.k = scale
        self.use(Image.new("RGB", (width * scale, height * scale)))

    def use(self, image: Image.Image) -> None:
        self.image, self.pen = image, ImageDraw.Draw(image, "RGBA")

    def copy(self) -> "Canvas":
        twin = Canvas(1, 1, self.k)
        twin.use(self.image.copy())
        return twin

    def pixels(self) -> NDArray[np.uint8]:
        return np.asarray(self.image.reduce(2))

    def poly(self, shape: Points, fill: str) -> None:
        self.pen.polygon((shape * self.k).ravel().tolist(), fill=fill)

    def box(self, x: float, y: float, w: float, h: float, fill: str, r: float = 0) -> None:
        edges = (x * self.k, y * self.k, (x + w) * self.k - 1, (y + h) * self.k - 1)
        self.pen.rounded_rectangle(edges, r * self.k, fill=fill)

    def disc(self, x: float, y: float, r: float, fill: str, ry: float = 0) -> None:
        h = ry or r
        edges = ((x - r) * self.k, (y - h) * self.k, (x + r) * self.k, (y + h) * self.k)
        self.pen.ellipse(edges, fill=fill)

    def line(self, shape: Points, width: float, fill: str, cap: bool = True) -> None:
        flat = (shape * self.k).ravel().tolist()
        self.pen.line(flat, fill=fill, width=max(1, round(width * self.k)))
        for x, y in shape if cap else ():
            self.disc(x, y, width / 2, fill)

    def glow(self, x: float, y: float, r: float, fill: str, ry: float = 0) -> None:
        """Paint a soft spot of light (or shadow) that fades out at its rim."""
        h, color = ry or r, ImageColor.getrgb(fill)
        alpha = color[3] if len(color) == 4 else 255
        mask = RADIAL.point([v * v * alpha // 65025 for v in range(256)])
        mask = mask.resize((round(2 * r * self.k), round(2 * h * self.k)))
        self.image.paste(color[:3], (round((x - r) * self.k), round((y - h) * self.k)), mask)

    def gradient(self, top: float, bottom: float, *colors: str) -> None:
        """Fill the band between two heights with evenly spaced colours."""
        rows = round((bottom - top) * self.k)
        rgb = np.array([ImageColor.getrgb(c) for c in colors], dtype=float)
        at, stops = np.linspace(0, 1, rows), np.linspace(0, 1, len(colors))
        band = np.stack([np.interp(at, stops, rgb[:, i]) for i in range(3)], axis=-1)
        strip = Image.fromarray(band.round().astype(np.uint8)[:, None])
        strip = strip.resize((self.image.width, rows))
        self.image.paste(strip, (0, round(top * self.k)))

    def blur(self, radius: float) -> None:
        self.use(self.image.filter(ImageFilter.GaussianBlur(radius * self.k)))
