"""The matrix of a limits sweep: as CSV, JSON, picture and page, and as a table on the terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import open_atomic, write_atomic
from ..media.geometry import Size
from ..models.family import Family, Media
from ..models.linear import linear_estimate
from .points import Point, agreement, disagreements, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Console

VERSION = 1
Facts = Mapping[str, Mapping[str, str]]

_COLOURS = {"fits": "#2f6f4f", "refused": "#8a8f94", "wrong": "#c1272d"}
# Of the page.
_VARIABLES = {"#2f6f4f": "upsampled", "#8a8f94": "hatch", "#c1272d": "failed", "#b36b00": "kept", "#000000": "ink"}
_PAPER = {"fits": "#dcebe2", "refused": "#eceded", "wrong": "#f8d9d9"}


def verdict(point: Point) -> str:
    """fits or refused, by the engine or, before it was asked, by the token rule; wrong where the two differ."""
    if point.agrees is False:
        return "wrong"
    return "fits" if point.fits else "refused"


def write(points: Sequence[Point], facts: Facts, folder: Path, family: Family, clip_fps: float | None = None) -> None:
    """matrix.csv, matrix.json, matrix.png and matrix.html in this folder. family: what counted the first point; clip_fps:
    frames per second of whole clips."""
    rows = [row_of(point, facts) for point in points]
    with open_atomic(folder / "matrix.csv") as f:
        table = csv.DictWriter(f, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    agreed = agreement(points)
    data = {"version": VERSION, "agreement": asdict(agreed) | {"points": len(points)}, "engines": facts, "points": rows}
    write_atomic(folder / "matrix.json", json.dumps(data, indent=1) + "\n")
    write_atomic(folder / "matrix.png", _heatmap(points))
    write_atomic(folder / "matrix.html", _page(points, facts, _curve(points, family, clip_fps)))


def row_of(point: Point, facts: Facts) -> dict[str, Any]:
    """A point as one flat row; what is unknown is None."""
    seen = point.measured
    asked = ("model", "size", "category", "aspect", "frames", "max_model_len")
    planned = ("text_tokens", "image_tokens", "prompt_tokens")
    return {
        **{name: getattr(point, name) for name in asked},
        "output_reserved": point.reserve,
        **{name: getattr(point, name) for name in planned},
        "predicted": "fits" if point.fits else "does not fit",
        "linear_estimate": point.linear_estimate,
        "linear_says": "fits" if point.linear_fits else "does not fit",
        "same_as": point.same_as,
        "measured": None if not seen else "accepted" if seen.accepted else seen.refusal,
        "reason": seen.reason if seen else None,
        "measured_tokens": seen.prompt_tokens if seen else None,
        "room": seen.room if seen else None,
        "first_token_s": seen.first_token_s if seen else None,
        "total_s": seen.total_s if seen else None,
        "memory": facts[point.engine_key]["memory"] if seen else None,
        "engine": seen.engine if seen else None,
        "agrees": point.agrees,
        "linear_agrees": point.linear_agrees,
    }


def show(points: Sequence[Point], folder: Path, console: Console) -> None:
    """Sizes x budgets on the terminal, and how often prediction and engine agree."""
    from rich.table import Table
    from rich.text import Text

    grid = _Grid(points)
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("size")
    table.add_column("frames", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("old est.", justify="right")
    for budget in grid.budgets:
        table.add_column(str(budget), justify="right")
    styles = {"fits": "green", "refused": "dim", "wrong": "bold red"}
    for row in grid.rows:
        first = next(point for point in row.cells if point)
        cells = [Text(_word(point), style=styles[verdict(point)]) if point else Text("–") for point in row.cells]
        size = row.size + (f"  = {first.same_as}" if first.same_as else "")
        table.add_row(size, str(first.frames), str(first.prompt_tokens), str(first.linear_estimate), *cells)
    console.print(table)
    agreed = agreement(points)
    console.print(
        f"{len(points)} points: {agreed}",
        highlight=False,
        style="bold" if agreed.measured == agreed.exact else "bold red",
    )
    for name in ("matrix.html", "matrix.png", "matrix.json", "matrix.csv"):
        console.print(f"{name:<12} {folder / name}", markup=False, highlight=False, soft_wrap=True)


def _word(point: Point) -> str:
    """A cell in one or two words: what was seen, or what is predicted."""
    if not point.measured:
        return "fits" if point.fits else "too long"
    if point.measured.accepted:
        return "accepted" if point.fits else "accepted!"
    words = {"too_long": "refused", "no_room": "no room", "failed": "failed"}
    return words[point.measured.refusal] + ("!" if point.fits and point.measured.refusal != "failed" else "")


class _Row:
    def __init__(self, size: str, cells: list[Point | None]) -> None:
        self.size, self.cells = size, cells


class _Grid:
    """Points as rows of one size and number of frames, by cost, and columns of one budget."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.budgets = sorted({p.max_model_len for p in points})
        at = {(p.model, p.size, p.frames, p.max_model_len): p for p in points}
        keys = sorted({(p.model, p.frames, p.prompt_tokens, p.linear_estimate, p.size) for p in points})
        several = len({p.model for p in points}) > 1
        self.rows = [
            _Row(
                f"{model} {size}" if several else size,
                [at.get((model, size, frames, budget)) for budget in self.budgets],
            )
            for model, frames, _, _, size in keys
        ]


# ------------------------------------------------------------------------------------------------------- the picture


def _heatmap(points: Sequence[Point]) -> bytes:
    """Sizes x budgets as a PNG: the cost in each cell, colored by what happens to it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = _Grid(points)
    figure = Figure(
        figsize=(3.2 + 1.25 * len(grid.budgets), 1.6 + 0.27 * len(grid.rows)), dpi=130, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_heatmap(axes, grid)
    axes.set_title(str(agreement(points)).replace(", the old", ",\nthe old"), fontsize=9, loc="left", pad=24)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _draw_heatmap(axes: Axes, grid: _Grid) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(grid.rows):
        for x, point in enumerate(row.cells):
            if not point:
                continue
            kind = verdict(point)
            line = "solid" if point.measured else (0, (2, 2))
            axes.add_patch(
                Rectangle(
                    (x, y), 0.96, 0.92, facecolor=_PAPER[kind], edgecolor=_COLOURS[kind], linestyle=line, linewidth=0.8
                )
            )
            text = f"{point.prompt_tokens} {_word(point)}"
            axes.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=7, color="#1d2124")
    axes.set_xlim(0, len(grid.budgets))
    axes.set_ylim(len(grid.rows), 0)
    axes.set_xticks([n + 0.48 for n in range(len(grid.budgets))], [str(b) for b in grid.budgets], fontsize=8)
    axes.xaxis.tick_top()
    axes.set_xlabel("max_model_len; in each cell prompt tokens and what happens", fontsize=8)
    labels = [f"{row.size} x{next(p for p in row.cells if p).frames}" for row in grid.rows]
    axes.set_yticks([n + 0.46 for n in range(len(labels))], labels, fontsize=7)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _curve(points: Sequence[Point], family: Family, clip_fps: float | None) -> str:
    """Tokens over pixels as SVG: the rule with its steps and its ceiling, the old estimate, the points, the budgets."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    first, media = points[0], Media(points[0].frames, clip_fps)
    frames, other = first.frames, first.prompt_tokens - first.image_tokens
    points = [point for point in points if point.model == first.model]
    sizes = [Size(width, width * 9 // 16) for width in range(96, 1921, 8)]
    pixels = [_megapixels(size) for size in sizes]
    figure = Figure(figsize=(8.6, 4.4), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    exact = [family.media_tokens(size, media) + other for size in sizes]
    rule = f"the rule, 16:9, {frames} frames"
    axes.step(pixels, exact, where="post", color=_COLOURS["fits"], linewidth=1.6, label=rule)
    old = [linear_estimate(size.width_px, size.height_px, frames) for size in sizes]
    axes.plot(pixels, old, color="#b36b00", linewidth=1.2, linestyle="--", label="the old estimate")
    _draw_points(axes, points, frames)
    _draw_limits(axes, points, family.largest(Size(16384, 9216), media), max(pixels))
    axes.set_ylim(0, max(max(exact) * 1.5, 1.15 * max(p.prompt_tokens for p in points)))
    axes.set_xlim(0, max(pixels))
    axes.set_xlabel("megapixels of a frame")
    axes.set_ylabel("tokens of the prompt")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    out = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    whole = out.getvalue()
    for colour, name in _VARIABLES.items():  # so that it follows the page into the dark
        whole = whole.replace(colour, f"var(--{name})")
    return whole[whole.index("<svg") :]


def _megapixels(size: Size) -> float:
    return size.width_px * size.height_px / 1e6


def _draw_points(axes: Axes, points: Sequence[Point], frames: int) -> None:
    for kind, marker in (("fits", "o"), ("refused", "s"), ("wrong", "X")):
        chosen = {p.size: p for p in points if p.frames == frames and verdict(p) == kind}.values()
        at = [_megapixels(size_of(p.size)) for p in chosen], [p.prompt_tokens for p in chosen]
        axes.scatter(*at, marker=marker, s=22, color=_COLOURS[kind], zorder=3)


def _draw_limits(axes: Axes, points: Sequence[Point], largest: Size, most: float) -> None:
    """The budgets, and the largest picture that the encoder takes. most: megapixels that are shown."""
    for budget in sorted({p.max_model_len for p in points}):
        axes.axhline(budget, color="#8a8f94", linewidth=0.7)
        axes.annotate(f"{budget}", (most, budget), fontsize=8, va="bottom", ha="right")
    if (ceiling := _megapixels(largest)) < most:
        axes.axvline(ceiling, color="#8a8f94", linewidth=0.7, linestyle=":")
        text = f"{largest.width_px} px: the encoder scales\nanything larger down"
        axes.annotate(text, (ceiling, 0), xytext=(4, 6), textcoords="offset points", fontsize=8)


# ---------------------------------------------------------------------------------------------------------- the page


def _page(points: Sequence[Point], facts: Facts, curve: str) -> str:
    from markupsafe import Markup

    from ..reports.pages import page_template

    rows = [row_of(point, facts) for point in points]
    wrong = [
        (p.size, p.max_model_len, p.prompt_tokens, p.measured.prompt_tokens, p.measured.reason or "accepted")
        for p in disagreements(points)
        if p.measured
    ]
    shown = ("max_model_len", "engine", "model", "host", "image", "memory")
    return page_template("matrix.html.j2").render(
        thumbnail_px=0,
        grid=_Grid(points),
        points=points,
        wrong=wrong,
        unmeasured=sum(point.agrees is None for point in points),
        agreement=agreement(points),
        engines=[[fact[name] for name in shown] for fact in facts.values()],
        verdict=verdict,
        word=_word,
        curve=Markup(curve),
        columns=[name.replace("_", " ") for name in rows[0]],
        rows=[row.values() for row in rows],
    )
