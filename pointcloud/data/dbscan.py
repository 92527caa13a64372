"""Exact DBSCAN (Ester et al., KDD 1996) of 3D points on a grid, in time linear in the number of points for LiDAR densities."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

_REACH = 2  # cells of eps / sqrt(3): points within eps are at most 2 cells apart


def dbscan(xyz: NDArray[np.floating], *, eps: float = 0.75, min_points: int = 5) -> NDArray[np.int64]:
    """``(N,)`` cluster of each point, -1 = noise.

    A point with at least ``min_points`` points (itself included) within ``eps`` (inclusive) is a core point; core points within eps of
    each other share a cluster; a point that is not core joins the cluster of a core point within eps. Clusters are numbered by their first
    core point, and a border point reached by several joins the lowest, which is what scikit-learn gives.

    Points are sorted into cells with a diagonal of eps: all points of a cell are neighbours, so a cell of ``min_points`` is all core, and
    two cells need one close pair of core points to be joined.
    """
    if eps <= 0 or min_points < 1:
        raise ValueError(f"expected eps > 0 and min_points >= 1, got {eps} and {min_points}")
    if not len(xyz):
        return np.zeros(0, dtype=np.int64)
    points = np.ascontiguousarray(xyz, dtype=np.float64)
    size = eps / np.sqrt(3) * (1 - 1e-9)
    cell = np.floor((points - points.min(axis=0)) / size).astype(np.int64) + _REACH
    extent = cell.max(axis=0) + _REACH + 1
    if float(np.prod(extent.astype(np.float64))) > 2**62:
        raise ValueError(f"points spread over {extent.tolist()} cells of {size:g}: eps is too small for this cloud")
    key = (cell[:, 0] * extent[1] + cell[:, 1]) * extent[2] + cell[:, 2]
    order = np.argsort(key, kind="stable")
    occupied, starts = np.unique(key[order], return_index=True)
    offsets = np.append(starts, len(points))
    steps = np.array(
        [
            (dx * extent[1] + dy) * extent[2] + dz
            for dx in range(-_REACH, _REACH + 1)
            for dy in range(-_REACH, _REACH + 1)
            for dz in range(-_REACH, _REACH + 1)
            if sum(max(abs(d) - 1, 0) ** 2 for d in (dx, dy, dz)) < 3
        ]
    )
    neighbours, counts = _neighbour_cells(occupied, steps)
    return _cluster(points[order], order, offsets, neighbours, counts, eps * eps, min_points)


@numba.njit(cache=True, nogil=True)
def _neighbour_cells(occupied: NDArray[np.int64], steps: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Occupied cells around each occupied cell, itself included: (C, steps) rows and (C,) counts. One moving pointer a step, no hashing."""
    count = len(occupied)
    neighbours = np.empty((count, len(steps)), dtype=np.int64)
    counts = np.zeros(count, dtype=np.int64)
    for step in steps:
        other = 0
        for cell in range(count):
            wanted = occupied[cell] + step
            while other < count and occupied[other] < wanted:
                other += 1
            if other == count:
                break
            if occupied[other] == wanted:
                neighbours[cell, counts[cell]] = other
                counts[cell] += 1
    return neighbours, counts


@numba.njit(cache=True, nogil=True, inline="always")
def _distance2(points: NDArray[np.float64], a: int, b: int) -> float:
    dx, dy, dz = points[a, 0] - points[b, 0], points[a, 1] - points[b, 1], points[a, 2] - points[b, 2]
    return dx * dx + dy * dy + dz * dz


@numba.njit(cache=True, nogil=True)
def _root(parent: NDArray[np.int64], cell: int) -> int:
    while parent[cell] != cell:
        parent[cell] = parent[parent[cell]]
        cell = parent[cell]
    return cell


@numba.njit(cache=True, nogil=True)
def _cluster(
    points: NDArray[np.float64],
    order: NDArray[np.int64],
    offsets: NDArray[np.int64],
    neighbours: NDArray[np.int64],
    counts: NDArray[np.int64],
    eps2: float,
    min_points: int,
) -> NDArray[np.int64]:
    cells, total = len(offsets) - 1, len(points)
    core = _core_points(points, offsets, neighbours, counts, eps2, min_points)
    parent = np.arange(cells)
    has_core = np.zeros(cells, dtype=np.bool_)
    for cell in range(cells):
        for point in range(offsets[cell], offsets[cell + 1]):
            has_core[cell] |= core[point]
    for cell in range(cells):
        if not has_core[cell]:
            continue
        for k in range(counts[cell]):
            other = neighbours[cell, k]
            if other <= cell or not has_core[other] or _root(parent, cell) == _root(parent, other):
                continue
            if _any_close(points, core, offsets, cell, other, eps2):
                parent[_root(parent, cell)] = _root(parent, other)
    # number clusters by their first core point in the caller's order
    first = np.full(cells, total, dtype=np.int64)
    for cell in range(cells):
        if has_core[cell]:
            root = _root(parent, cell)
            for point in range(offsets[cell], offsets[cell + 1]):
                if core[point]:
                    first[root] = min(first[root], order[point])
    number = np.full(cells, -1, dtype=np.int64)
    roots = np.flatnonzero(first < total)
    number[roots[np.argsort(first[roots])]] = np.arange(len(roots))
    out = np.full(total, -1, dtype=np.int64)
    for cell in range(cells):
        for point in range(offsets[cell], offsets[cell + 1]):
            if core[point]:
                out[order[point]] = number[_root(parent, cell)]
                continue
            best = total
            for k in range(counts[cell]):
                other = neighbours[cell, k]
                if not has_core[other] or number[_root(parent, other)] >= best:
                    continue
                for candidate in range(offsets[other], offsets[other + 1]):
                    if core[candidate] and _distance2(points, point, candidate) <= eps2:
                        best = number[_root(parent, other)]
                        break
            if best < total:
                out[order[point]] = best
    return out


@numba.njit(cache=True, nogil=True)
def _core_points(
    points: NDArray[np.float64], offsets: NDArray[np.int64], neighbours: NDArray[np.int64], counts: NDArray[np.int64], eps2: float, min_points: int
) -> NDArray[np.bool_]:
    core = np.zeros(len(points), dtype=np.bool_)
    for cell in range(len(offsets) - 1):
        if offsets[cell + 1] - offsets[cell] >= min_points:
            core[offsets[cell] : offsets[cell + 1]] = True
            continue
        for point in range(offsets[cell], offsets[cell + 1]):
            near = 0
            for k in range(counts[cell]):
                other = neighbours[cell, k]
                for candidate in range(offsets[other], offsets[other + 1]):
                    if _distance2(points, point, candidate) <= eps2:
                        near += 1
                        if near >= min_points:
                            break
                if near >= min_points:
                    core[point] = True
                    break
    return core


@numba.njit(cache=True, nogil=True)
def _any_close(points: NDArray[np.float64], core: NDArray[np.bool_], offsets: NDArray[np.int64], a: int, b: int, eps2: float) -> bool:
    for first in range(offsets[a], offsets[a + 1]):
        if core[first]:
            for second in range(offsets[b], offsets[b + 1]):
                if core[second] and _distance2(points, first, second) <= eps2:
                    return True
    return False
