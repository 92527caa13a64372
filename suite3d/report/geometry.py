"""Corners of boxes, for drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
EDGES = ((0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7))


def as_boxes(boxes: ArrayLike | None) -> Float:
    """``(M, 7)`` float64 from boxes of 7 or more columns; ``(0, 7)`` from None or an empty list."""
    array = np.zeros((0, 7)) if boxes is None else np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return np.zeros((0, 7))
    if array.ndim != 2 or array.shape[1] < 7:
        raise ValueError(f"expected boxes of shape (M, 7) or wider, got {array.shape}")
    return array[:, :7]


def box_corners(boxes: ArrayLike | None) -> Float:
    """``(M, 7)`` (cx, cy, cz, dx, dy, dz, yaw) -> ``(M, 8, 3)``: the bottom face from front left counter-clockwise, then the top."""
    rows = as_boxes(boxes)
    signs = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]])
    offset = 0.5 * signs * rows[:, None, 3:6]  # [M, 8, 3]
    cos, sin = np.cos(rows[:, 6])[:, None], np.sin(rows[:, 6])[:, None]
    x, y, z = np.moveaxis(offset, 2, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=2) + rows[:, None, :3]
