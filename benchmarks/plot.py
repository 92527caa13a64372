"""Line charts on logarithmic axes as PNG, with the project's own canvas: no plotting library is needed to read a benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from suite3d.report.canvas import Canvas, Color
from suite3d.report.curves import COLORS
from suite3d.report.png import write_png

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 420, 64, 16, 44, 40
INK, GRID = (40, 40, 40), (225, 225, 225)

Lines = Mapping[str, Sequence[tuple[float, float]]]


def colour(number: int) -> Color:
    """Of the n-th line."""
    value = COLORS[number % len(COLORS)]
    return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)


def powers(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around positive values."""
    low, high = math.floor(math.log10(min(values)) + 1e-9), math.ceil(math.log10(max(values)) - 1e-9)
    return low, max(high, low + 1)


def panel(canvas: Canvas, left: int, title: str, across: str, lines: Lines) -> None:
    """One chart whose picture begins at column ``left``; points that are not positive are left out."""
    kept = {name: [(x, y) for x, y in points if x > 0 and y > 0] for name, points in lines.items()}
    xs, ys = ([point[axis] for points in kept.values() for point in points] for axis in (0, 1))
    (x0, x1), (y0, y1) = powers(xs), powers(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        share_x, share_y = (math.log10(x) - x0) / (x1 - x0), (math.log10(y) - y0) / (y1 - y0)
        return left + LEFT + share_x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - share_y * (HEIGHT - TOP - BOTTOM)

    canvas.text(left + LEFT, 8, title, INK, scale=2)
    canvas.text(left + LEFT, HEIGHT - 12, across, INK)
    for power in range(x0, x1 + 1):
        canvas.line(place(10**power, 10**y0), place(10**power, 10**y1), GRID)
        canvas.text(place(10**power, 10**y0)[0] - 12, HEIGHT - BOTTOM + 8, short(10**power), INK)
    for power in range(y0, y1 + 1):
        canvas.line(place(10**x0, 10**power), place(10**x1, 10**power), GRID)
        canvas.text(left + 8, place(10**x0, 10**power)[1] - 3, f"{short(10**power):>8}", INK)
    for number, (name, points) in enumerate(kept.items()):
        places = [place(x, y) for x, y in points]
        canvas.polyline(places, colour(number), width=2)
        canvas.points(places, colour(number), size=6)
        canvas.text(left + LEFT + 8, TOP + 4 + 12 * number, name, colour(number))


def short(value: float) -> str:
    """1000 -> "1k", 0.01 -> "0.01"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def save_panels(path: Path, panels: Sequence[tuple[str, str, Lines]]) -> None:
    """Charts side by side in one PNG: (title, what goes across, name -> points) each."""
    canvas = Canvas((HEIGHT, WIDTH * len(panels)), (255, 255, 255))
    for number, (title, across, lines) in enumerate(panels):
        panel(canvas, number * WIDTH, title, across, lines)
    write_png(path, canvas.image())
