"""Box geometry for the loader's workers: numba, float64, no torch threads. The ops do the same on batches and devices."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def box_index(xyz: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(N,)`` index of the first box that holds each point (faces included), -1 for none.

    Args:
        xyz: ``(N, 3)``.
        boxes: ``(M, 7 or more)``.
    """
    return _box_index(np.ascontiguousarray(xyz), np.ascontiguousarray(boxes[:, :7], dtype=np.float64))


def points_per_box(xyz: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(M,)`` number of points inside each box; a point in two boxes counts for both."""
    return _points_per_box(np.ascontiguousarray(xyz), np.ascontiguousarray(boxes[:, :7], dtype=np.float64))


def collide_bev(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.bool_]:
    """``(N, M)`` bool: whether the rectangles of two box lists overlap seen from above (touching edges do not), by separating axes."""
    return _collide(np.ascontiguousarray(a[:, :7], dtype=np.float64), np.ascontiguousarray(b[:, :7], dtype=np.float64))


@numba.njit(cache=True, nogil=True, inline="always")
def _inside(x: float, y: float, z: float, box: NDArray[np.float64], cos: float, sin: float) -> bool:
    dx, dy = x - box[0], y - box[1]
    return abs(z - box[2]) * 2 <= box[5] and abs(dx * cos + dy * sin) * 2 <= box[3] and abs(dy * cos - dx * sin) * 2 <= box[4]


@numba.njit(cache=True, nogil=True)
def _box_index(xyz: NDArray[np.float32], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    out = np.full(len(xyz), -1, dtype=np.int64)
    for m in range(len(boxes) - 1, -1, -1):  # backwards, so that the first box wins
        box = boxes[m]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        radius = 0.5 * np.hypot(box[3], box[4]) + 1e-6
        for n in range(len(xyz)):
            if abs(xyz[n, 0] - box[0]) <= radius and abs(xyz[n, 1] - box[1]) <= radius and _inside(xyz[n, 0], xyz[n, 1], xyz[n, 2], box, cos, sin):
                out[n] = m
    return out


@numba.njit(cache=True, nogil=True)
def _points_per_box(xyz: NDArray[np.float32], boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    out = np.zeros(len(boxes), dtype=np.int64)
    for m in range(len(boxes)):
        box = boxes[m]
        cos, sin = np.cos(box[6]), np.sin(box[6])
        radius = 0.5 * np.hypot(box[3], box[4]) + 1e-6
        for n in range(len(xyz)):
            if abs(xyz[n, 0] - box[0]) <= radius and abs(xyz[n, 1] - box[1]) <= radius and _inside(xyz[n, 0], xyz[n, 1], xyz[n, 2], box, cos, sin):
                out[m] += 1
    return out


@numba.njit(cache=True, nogil=True)
def _collide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    out = np.zeros((len(a), len(b)), dtype=np.bool_)
    for i in range(len(a)):
        for j in range(len(b)):
            dx, dy = b[j, 0] - a[i, 0], b[j, 1] - a[i, 1]
            turn = b[j, 6] - a[i, 6]
            cos, sin = abs(np.cos(turn)), abs(np.sin(turn))
            along_a = abs(dx * np.cos(a[i, 6]) + dy * np.sin(a[i, 6]))
            across_a = abs(dy * np.cos(a[i, 6]) - dx * np.sin(a[i, 6]))
            along_b = abs(dx * np.cos(b[j, 6]) + dy * np.sin(b[j, 6]))
            across_b = abs(dy * np.cos(b[j, 6]) - dx * np.sin(b[j, 6]))
            out[i, j] = (
                along_a * 2 < a[i, 3] + b[j, 3] * cos + b[j, 4] * sin
                and across_a * 2 < a[i, 4] + b[j, 3] * sin + b[j, 4] * cos
                and along_b * 2 < b[j, 3] + a[i, 3] * cos + a[i, 4] * sin
                and across_b * 2 < b[j, 4] + a[i, 3] * sin + a[i, 4] * cos
            )
    return out
