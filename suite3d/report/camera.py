"""Boxes on a camera picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.report.bev import DETECTED
from suite3d.report.canvas import Canvas, Color
from suite3d.report.font import text_width
from suite3d.report.geometry import EDGES, as_boxes, box_corners
from suite3d.report.png import read_png

NEAR = 0.1


def draw_boxes_on_image(
    image: NDArray[np.uint8],
    boxes: ArrayLike | None,
    calib: ArrayLike,
    *,
    color: Color = DETECTED,
    captions: Sequence[str] | None = None,
    width: float = 1.8,
) -> NDArray[np.uint8]:
    """Edges of 3D boxes drawn on a camera picture, the front face shaded; far boxes first. Returns a new picture.

    Args:
        image: ``(H, W, 3)`` uint8.
        boxes: ``(M, 7 | 9)`` in the frame the projection starts from (LiDAR), or None.
        calib: ``(3, 4)`` projection to homogeneous pixels with positive depth in front (KITTI: ``P2 R0 Tr``).
        color: of the lines.
        captions: M short texts above the boxes, or None.
        width: of the lines, pixels.

    Raises:
        ValueError: a projection that is not (3, 4).
    """
    camera = np.asarray(calib, dtype=np.float64)
    if camera.shape != (3, 4):
        raise ValueError(f"expected a (3, 4) projection from the boxes' frame to pixels, got {camera.shape}")
    canvas = Canvas(image)
    rows = as_boxes(boxes)
    corners = box_corners(rows)
    homogeneous = corners @ camera[:, :3].T + camera[:, 3]  # [M, 8, 3]
    depth = homogeneous[..., 2].mean(axis=1)
    for row in np.argsort(-depth):
        _draw_box(canvas, homogeneous[row], color, width, None if captions is None else captions[row])
    return canvas.image()


def read_image(path: str | Path) -> NDArray[np.uint8] | None:
    """``(H, W, 3)`` uint8 picture for drawing on, or None where it is missing, damaged, or not a PNG and Pillow is not installed."""
    file = Path(path)
    if not file.is_file():
        return None
    if file.suffix.lower() == ".png":
        try:
            pixels = read_png(file)
        except ValueError:
            return None
        return pixels if pixels.ndim == 3 else pixels[..., None].repeat(3, axis=2)
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError:
        return None


def _draw_box(canvas: Canvas, points: NDArray[np.float64], color: Color, width: float, caption: str | None) -> None:
    """One box from its ``(8, 3)`` homogeneous pixels; edges are cut at the near plane and at the rim of the picture."""
    height, breadth = canvas.shape
    segments = [cut for a, b in EDGES if (cut := _clip(points[a], points[b], breadth, height)) is not None]
    if not segments:
        return
    front = points[[0, 3, 7, 4]]
    if (front[:, 2] > NEAR).all():
        canvas.polygon(np.clip(front[:, :2] / front[:, 2:], [-2e3, -2e3], [2e3 + breadth, 2e3 + height]), color, opacity=0.18)
    for start, end in segments:
        canvas.line(start, end, color, width=width, opacity=0.95)
    if caption:
        ends = np.array(segments).reshape(-1, 2)
        x, y = ends[:, 0].min(), ends[:, 1].min() - 11
        x, y = float(np.clip(x, 0, max(breadth - text_width(caption), 0))), float(np.clip(y, 0, height - 9))
        canvas.rectangle(x - 1, y - 1, text_width(caption) + 3, 10, (0, 0, 0), opacity=0.55)
        canvas.text(x, y, caption, color)


def _clip(a: NDArray[np.float64], b: NDArray[np.float64], width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The visible part of an edge in pixels, or None (Liang & Barsky on the near plane, then on the picture)."""
    if max(a[2], b[2]) <= NEAR:
        return None
    if a[2] < NEAR:
        a = a + (b - a) * ((NEAR - a[2]) / (b[2] - a[2]))
    elif b[2] < NEAR:
        b = b + (a - b) * ((NEAR - b[2]) / (a[2] - b[2]))
    start, end = a[:2] / a[2], b[:2] / b[2]
    enter, leave = 0.0, 1.0
    for axis, limit in ((0, float(width)), (1, float(height))):
        step = end[axis] - start[axis]
        if step == 0:
            if not 0 <= start[axis] <= limit:
                return None
            continue
        first, last = sorted((-start[axis] / step, (limit - start[axis]) / step))
        enter, leave = max(enter, first), min(leave, last)
    return (start + enter * (end - start), start + leave * (end - start)) if enter < leave else None
