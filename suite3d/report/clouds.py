"""Object clouds in a sheet: each seen at an angle from above, coloured by height or in given colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.report.bev import BACKGROUND, FAINT, INK, height_colors
from suite3d.report.canvas import Canvas, Color

HEAD = 20
_AXES = np.array([(0.88, -0.22), (0.47, 0.42), (0.0, -0.88)])  # where x, y and z of a cloud point in the picture (right, down)


@dataclass(kw_only=True)
class CloudCell:
    """One cloud of a sheet.

    Attributes:
        points: ``(N, 3)``, in the unit sphere about the origin (what lies further out may be cut); None = an empty cell.
        color: one colour for all points; None = by height.
        label: a word above it.
    """

    points: NDArray[np.floating] | None
    color: Color | None = None
    label: str = ""


def draw_clouds(rows: Sequence[Sequence[CloudCell]], *, side: int = 170, title: str = "") -> NDArray[np.uint8]:
    """``(H, W, 3)`` uint8: a row of clouds a row, at one scale.

    Raises:
        ValueError: no cell.
    """
    width = max((len(row) for row in rows), default=0)
    if width == 0:
        raise ValueError("draw_clouds expected at least one cloud, got none")
    sheet = Canvas((HEAD + len(rows) * (side + HEAD), width * side), BACKGROUND)
    sheet.text(6, 5, title, INK)
    picture = sheet.image()
    for place, row in enumerate(rows):
        top = HEAD + place * (side + HEAD)
        for column, cell in enumerate(row):
            picture[top : top + side + HEAD, column * side : (column + 1) * side] = _draw_cell(cell, side)
    return picture


def _draw_cell(cell: CloudCell, side: int) -> NDArray[np.uint8]:
    canvas = Canvas((side + HEAD, side), BACKGROUND)
    canvas.text(6, 5, cell.label, FAINT)
    if cell.points is not None and len(cell.points):
        points = np.asarray(cell.points, dtype=np.float64)
        order = np.argsort(-points[:, 1], kind="stable")  # the far ones first
        colors = height_colors(points[order, 2]) if cell.color is None else np.asarray(cell.color)
        size = float(np.clip(55 / np.sqrt(len(points)), 1.7, 3.5))  # few points are drawn larger
        canvas.points(points[order] @ _AXES * (0.46 * side) + (side / 2, HEAD + side / 2), colors, size=size)
    return canvas.image()
