"""Ground removal: a plane a cell of a polar grid, fitted to its lowest points."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

# rings (metres): narrow near the sensor where points are dense, wide far away; sectors a ring
_RINGS = np.array([0.0, 4.0, 8.0, 13.0, 20.0, 30.0, 45.0, 65.0, 100.0])
_SECTORS = np.array([8, 16, 24, 32, 32, 32, 32, 24], dtype=np.int64)
_STARTS = np.concatenate([[0], np.cumsum(_SECTORS)])


def ground_mask(
    xyz: NDArray[np.float32],
    *,
    thickness: float = 0.2,
    seed_height: float = 0.2,
    max_slope: float = 0.2,
    max_step: float = 0.5,
    iterations: int = 3,
) -> NDArray[np.bool_]:
    """``(N,)`` bool: points on the ground.

    The plane is cut into rings and sectors around the sensor (as in Patchwork, Lim et al., RA-L 2021). In each cell the seeds are the
    points within ``seed_height`` of the mean of the lowest tenth; ``z = a x + b y + c`` is fitted to them by least squares and refitted
    to the points within ``thickness`` of it, ``iterations`` times. Going outward, a plane that is steeper than ``max_slope``, has fewer
    than 10 points, or differs at the cell's inner edge by more than ``max_step`` from the plane of the cell inside it (or beside it) is
    replaced by that plane: a car's roof or a wall is not ground. Points no more than ``thickness`` above their cell's plane are ground, and
    those below it too (reflections). The first ring starts from the lowest fitted plane near the sensor's height below.

    Args:
        xyz: ``(N, 3)`` LiDAR frame, z up; the sensor's height above ground need not be known.
        thickness: metres above the plane that still count as ground.
        seed_height, max_slope, max_step, iterations: see above; slope in metres per metre.
    """
    if not len(xyz):
        return np.zeros(0, dtype=bool)
    cells = _cells(xyz)
    order = np.argsort(cells, kind="stable")
    offsets = np.searchsorted(cells[order], np.arange(_STARTS[-1] + 1))
    points = np.ascontiguousarray(xyz[order], dtype=np.float64)
    planes, trusted = _fit_all(points, offsets, thickness, seed_height, max_slope, iterations)
    planes = _chain(planes, trusted, max_step)
    plane = planes[cells]
    height = xyz[:, 2] - (plane[:, 0] * xyz[:, 0] + plane[:, 1] * xyz[:, 1] + plane[:, 2])
    return height <= thickness


def _cells(xyz: NDArray[np.float32]) -> NDArray[np.int64]:
    ring = np.searchsorted(_RINGS[1:-1], np.hypot(xyz[:, 0], xyz[:, 1]), side="right")
    share = np.arctan2(xyz[:, 1], xyz[:, 0]) / (2 * np.pi) % 1.0
    sector = np.minimum((share * _SECTORS[ring]).astype(np.int64), _SECTORS[ring] - 1)
    return _STARTS[ring] + sector


@numba.njit(cache=True, nogil=True)
def _fit_all(
    points: NDArray[np.float64], offsets: NDArray[np.int64], thickness: float, seed_height: float, max_slope: float, iterations: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    count = len(offsets) - 1
    planes = np.zeros((count, 3))
    trusted = np.zeros(count, dtype=np.bool_)
    for cell in range(count):
        part = points[offsets[cell] : offsets[cell + 1]]
        if len(part) < 10:
            continue
        lowest = np.sort(part[:, 2])
        base = lowest[: max(1, len(lowest) // 10)].mean()
        use = part[:, 2] < base + seed_height
        plane = np.zeros(3)
        for _ in range(iterations):
            if use.sum() < 10:
                break
            plane = _fit(part[use])
            use = np.abs(part[:, 2] - (part[:, 0] * plane[0] + part[:, 1] * plane[1] + plane[2])) < thickness
        planes[cell] = plane
        trusted[cell] = use.sum() >= 10 and np.hypot(plane[0], plane[1]) <= max_slope
    return planes, trusted


@numba.njit(cache=True, nogil=True)
def _fit(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares z = a x + b y + c, with a weak pull of the slopes to 0 so that points on one line stay solvable."""
    mean_x, mean_y, mean_z = part[:, 0].mean(), part[:, 1].mean(), part[:, 2].mean()
    x, y, z = part[:, 0] - mean_x, part[:, 1] - mean_y, part[:, 2] - mean_z
    damping = 0.01 * len(part)
    xx, yy, xy = (x * x).sum() + damping, (y * y).sum() + damping, (x * y).sum()
    xz, yz = (x * z).sum(), (y * z).sum()
    det = xx * yy - xy * xy
    a, b = (xz * yy - yz * xy) / det, (yz * xx - xz * xy) / det
    return np.array([a, b, mean_z - a * mean_x - b * mean_y])


def _chain(planes: NDArray[np.float64], trusted: NDArray[np.bool_], max_step: float) -> NDArray[np.float64]:
    """Planes checked ring by ring against the one inside; those that do not continue it are replaced by it."""
    out = planes.copy()
    first = slice(_STARTS[0], _STARTS[2])  # the two rings nearest the sensor
    near = planes[first][trusted[first]]
    previous = np.tile(np.median(near, axis=0) if len(near) else _fallback(planes, trusted), (int(_SECTORS[0]), 1))
    for ring in range(len(_SECTORS)):
        sectors = int(_SECTORS[ring])
        angle = (np.arange(sectors) + 0.5) / sectors
        inner = previous[(angle * len(previous)).astype(int)]
        rows = slice(_STARTS[ring], _STARTS[ring + 1])
        radius = max(float(_RINGS[ring]), 2.0)
        edge = np.stack([radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle), np.ones(sectors)], axis=1)
        step = np.abs(((planes[rows] - inner) * edge).sum(axis=1))
        good = trusted[rows] & (step <= max_step)
        out[rows] = np.where(good[:, None], planes[rows], inner)
        previous = out[rows]
    return out


def _fallback(planes: NDArray[np.float64], trusted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """No ground near the sensor: the median of all fitted planes, else a plane far below everything."""
    return np.median(planes[trusted], axis=0) if trusted.any() else np.array([0.0, 0.0, -1e6])
