"""Rotated overlaps in double precision, compiled with numba.

The evaluators decide on strict thresholds and have to agree with programs that compute in double precision, so they do
not go through the float32 operators of :mod:`suite3d.ops` (a test holds the two against each other).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]


@njit(nogil=True)
def ground_intersection(a: Array, b: Array) -> float:
    """Ground area shared by two boxes (cx, cy, cz, dx, dy, dz, yaw): a's corners in b's frame, clipped by b's four sides (Sutherland-Hodgman)."""
    reach = 0.5 * (np.hypot(a[3], a[4]) + np.hypot(b[3], b[4]))
    shift_x, shift_y = a[0] - b[0], a[1] - b[1]
    if a[3] <= 0 or a[4] <= 0 or b[3] <= 0 or b[4] <= 0 or shift_x * shift_x + shift_y * shift_y > reach * reach:
        return 0.0
    cos_b, sin_b = np.cos(b[6]), np.sin(b[6])
    center_x, center_y = cos_b * shift_x + sin_b * shift_y, cos_b * shift_y - sin_b * shift_x
    cos_d, sin_d = np.cos(a[6] - b[6]), np.sin(a[6] - b[6])
    polygon = np.empty((16, 2))
    clipped = np.empty((16, 2))
    for corner in range(4):
        along = 0.5 * a[3] if corner == 0 or corner == 3 else -0.5 * a[3]
        across = 0.5 * a[4] if corner < 2 else -0.5 * a[4]
        polygon[corner, 0] = center_x + cos_d * along - sin_d * across
        polygon[corner, 1] = center_y + sin_d * along + cos_d * across
    count = 4
    for side in range(4):
        axis = side % 2
        sign = 1.0 if side < 2 else -1.0
        limit = 0.5 * b[3 + axis]
        kept = 0
        for i in range(count):
            j = (i + 1) % count
            here, there = limit - sign * polygon[i, axis], limit - sign * polygon[j, axis]
            if here >= 0:
                clipped[kept, 0], clipped[kept, 1] = polygon[i, 0], polygon[i, 1]
                kept += 1
            if (here >= 0) != (there >= 0):
                step = here / (here - there)
                clipped[kept, 0] = polygon[i, 0] + step * (polygon[j, 0] - polygon[i, 0])
                clipped[kept, 1] = polygon[i, 1] + step * (polygon[j, 1] - polygon[i, 1])
                kept += 1
        polygon, clipped = clipped, polygon
        count = kept
    area = 0.0
    for i in range(1, count - 1):
        area += (polygon[i, 0] - polygon[0, 0]) * (polygon[i + 1, 1] - polygon[0, 1])
        area -= (polygon[i + 1, 0] - polygon[0, 0]) * (polygon[i, 1] - polygon[0, 1])
    return 0.5 * abs(area)


@njit(nogil=True)
def box_intersections(a: Array, b: Array) -> tuple[Array, Array]:
    """Boxes ``(N, 7)`` and ``(M, 7)`` (cx, cy, cz, dx, dy, dz, yaw) -> ``(N, M)`` shared ground area and shared volume."""
    area = np.zeros((len(a), len(b)))
    volume = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            area[i, j] = ground_intersection(a[i], b[j])
            top = min(a[i, 2] + 0.5 * a[i, 5], b[j, 2] + 0.5 * b[j, 5])
            bottom = max(a[i, 2] - 0.5 * a[i, 5], b[j, 2] - 0.5 * b[j, 5])
            volume[i, j] = area[i, j] * max(0.0, top - bottom)
    return area, volume


def box_ious(a: Array, b: Array) -> tuple[Array, Array]:
    """Intersection over union on the ground and in space, both ``(N, M)`` float64, of boxes ``(N, 7)`` and ``(M, 7)``."""
    a, b = np.ascontiguousarray(a[:, :7], dtype=np.float64), np.ascontiguousarray(b[:, :7], dtype=np.float64)
    area, volume = box_intersections(a, b)
    ground = (a[:, 3] * a[:, 4])[:, None] + (b[:, 3] * b[:, 4])[None, :] - area
    space = np.prod(a[:, 3:6], axis=1)[:, None] + np.prod(b[:, 3:6], axis=1)[None, :] - volume
    return area / np.maximum(ground, 1e-12), volume / np.maximum(space, 1e-12)
