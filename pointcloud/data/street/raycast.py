"""The ray caster: parts are projected onto the grid of rays and only the rays inside a part's bounds are tested.

All kernels are pure per ray, so splitting the columns over threads never changes a bit. Randomness is a hash of
(key, ray, part): leaves, railings and spokes let the same rays through however the work is divided.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from suite3d.pointcloud.data.street.ground import height
from suite3d.pointcloud.data.street.shapes import BOX, CYLINDER, LEAVES, PARAMS

NOTHING, GROUND = -1, -2
"""Hits that are no part."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_FACE_SIDE, _FACE_START, _FACE_END = 0, 1, 2
_SLOPE = 0.07
_STRIDE = 1048583


@njit(cache=True, nogil=True, error_model="numpy")
def uniform(key: int, counter: int) -> float:
    """Uniform number in (0, 1) as a function of two integers (splitmix64: Steele, Lea, Flood 2014)."""
    z = np.uint64(key) + (np.uint64(counter) + np.uint64(1)) * _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(cache=True, nogil=True, error_model="numpy")
def place_parts(
    kind: NDArray[np.int8],
    body: NDArray[np.int32],
    params: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    poses: NDArray[np.float64],
    max_range: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Move parts into the viewer's frame.

    Args:
        kind, body, params, low, high: see :class:`shapes.Parts`.
        poses: ``(B, 4)`` x, y, z, yaw of the bodies in the viewer's frame.
        max_range: parts further away get ``near`` = inf.

    Returns:
        placed ``(P, PARAMS)``; corners ``(P, 8, 3)`` of the bounding boxes; near ``(P, 2)``: least distance, and least
        horizontal distance, from the viewer to the bounding box.
    """
    count = len(kind)
    placed = np.empty((count, PARAMS))
    corners = np.empty((count, 8, 3))
    near = np.empty((count, 2))
    for p in range(count):
        x, y, z, yaw = poses[body[p]]
        c, s = math.cos(yaw), math.sin(yaw)
        lx, ly = -(c * x + s * y), s * x - c * y  # the viewer in the body's frame
        gx = max(low[p, 0] - lx, lx - high[p, 0], 0.0)
        gy = max(low[p, 1] - ly, ly - high[p, 1], 0.0)
        gz = max(low[p, 2] + z, -z - high[p, 2], 0.0)
        near[p, 1] = math.hypot(gx, gy)
        near[p, 0] = math.sqrt(gx * gx + gy * gy + gz * gz)
        if near[p, 0] > max_range:
            near[p, 0] = np.inf
            continue
        for k in range(8):
            px = high[p, 0] if k & 1 else low[p, 0]
            py = high[p, 1] if k & 2 else low[p, 1]
            corners[p, k, 0], corners[p, k, 1] = x + c * px - s * py, y + s * px + c * py
            corners[p, k, 2] = z + (high[p, 2] if k & 4 else low[p, 2])
        q, out = params[p], placed[p]
        if kind[p] == BOX:
            for k in range(0, 24, 4):
                nx, ny = c * q[k] - s * q[k + 1], s * q[k] + c * q[k + 1]
                out[k], out[k + 1], out[k + 2] = nx, ny, q[k + 2]
                out[k + 3] = q[k + 3] + nx * x + ny * y + q[k + 2] * z
        else:
            out[0], out[1], out[2] = x + c * q[0] - s * q[1], y + s * q[0] + c * q[1], z + q[2]
            if kind[p] == CYLINDER:
                out[3], out[4], out[5] = c * q[3] - s * q[4], s * q[3] + c * q[4], q[5]
                out[6], out[7] = q[6], q[7]
            else:
                out[3], out[4], out[5], out[6], out[7], out[8] = q[3], q[4], q[5], q[6], c, s
    return placed, corners, near


@njit(cache=True, nogil=True, error_model="numpy")
def spinning_bounds(corners: NDArray[np.float64], near: NDArray[np.float64], elevations: NDArray[np.float64], columns: int) -> NDArray[np.int64]:
    """``(P, 4)`` first column, last column, first row, last row (inclusive) that can see each part.

    Column c looks at azimuth pi - 2 pi c / columns; the last column may exceed ``columns`` where a part wraps.
    """
    count = len(corners)
    bounds = np.zeros((count, 4), dtype=np.int64)
    for p in range(count):
        bounds[p, 1] = bounds[p, 3] = -1
        if near[p, 0] == np.inf:
            continue
        far = 0.0
        for k in range(4):
            far = max(far, math.hypot(corners[p, k, 0], corners[p, k, 1]))
        bottom, top, close = corners[p, 0, 2], corners[p, 4, 2], near[p, 1]
        lowest = math.atan2(bottom, close if bottom < 0 else far) - 1e-9
        highest = math.atan2(top, close if top > 0 else far) + 1e-9
        first = np.searchsorted(elevations, lowest)
        last = np.searchsorted(elevations, highest, side="right") - 1
        if last < first:
            continue
        bounds[p, 2], bounds[p, 3] = first, last
        if close < 1e-6:
            bounds[p, 1] = columns - 1
            continue
        mid = math.atan2((corners[p, 0, 1] + corners[p, 3, 1]) / 2, (corners[p, 0, 0] + corners[p, 3, 0]) / 2)
        left, right = 0.0, 0.0
        for k in range(4):
            turn = math.atan2(corners[p, k, 1], corners[p, k, 0]) - mid
            turn -= 2 * math.pi * math.floor(turn / (2 * math.pi) + 0.5)
            left, right = max(left, turn), min(right, turn)
        start = int(math.ceil((math.pi - mid - left) / (2 * math.pi) * columns - 1e-6))
        stop = int(math.floor((math.pi - mid - right) / (2 * math.pi) * columns + 1e-6))
        wraps = math.floor(start / columns) * columns
        bounds[p, 0], bounds[p, 1] = start - int(wraps), min(stop - int(wraps), start - int(wraps) + columns - 1)
    return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def pinhole_bounds(
    corners: NDArray[np.float64], near: NDArray[np.float64], focal: float, cx: float, cy: float, width: int, height_: int
) -> NDArray[np.int64]:
    """As :func:`spinning_bounds` for a pinhole camera looking along +x (columns right, rows down)."""
    count = len(corners)
    bounds = np.zeros((count, 4), dtype=np.int64)
    for p in range(count):
        bounds[p, 1] = bounds[p, 3] = -1
        if near[p, 0] == np.inf:
            continue
        u0, u1, v0, v1 = np.inf, -np.inf, np.inf, -np.inf
        front = 0
        for k in range(8):
            depth = corners[p, k, 0]
            if depth > 0.05:
                front += 1
                u, v = cx - focal * corners[p, k, 1] / depth, cy - focal * corners[p, k, 2] / depth
                u0, u1, v0, v1 = min(u0, u), max(u1, u), min(v0, v), max(v1, v)
        if front == 0:
            continue
        if front < 8:  # reaches behind the camera: anywhere
            u0, u1, v0, v1 = 0.0, float(width), 0.0, float(height_)
        if u1 < 0 or v1 < 0 or u0 > width or v0 > height_:
            continue
        bounds[p, 0], bounds[p, 1] = max(0, int(math.ceil(u0 - 1e-6))), min(width - 1, int(math.floor(u1 + 1e-6)))
        bounds[p, 2], bounds[p, 3] = max(0, int(math.ceil(v0 - 1e-6))), min(height_ - 1, int(math.floor(v1 + 1e-6)))
    return bounds


@njit(cache=True, nogil=True, error_model="numpy")
def _hit_box(q: NDArray[np.float64], dx: float, dy: float, dz: float, best: float) -> tuple[float, int]:
    enter, leave, face = 0.0, best, -1
    for k in range(6):
        slope = q[4 * k] * dx + q[4 * k + 1] * dy + q[4 * k + 2] * dz
        gap = q[4 * k + 3]
        if slope < -1e-12:
            t = gap / slope
            if t > enter:
                enter, face = t, k
        elif slope > 1e-12:
            leave = min(leave, gap / slope)
        elif gap < 0:
            return np.inf, -1
        if enter >= leave:
            return np.inf, -1
    return (enter, face) if face >= 0 else (np.inf, -1)


@njit(cache=True, nogil=True, error_model="numpy")
def _hit_ellipsoid(q: NDArray[np.float64], dx: float, dy: float, dz: float) -> tuple[float, float]:
    """Entry and exit distance, inf where the ray misses."""
    c, s = q[7], q[8]
    ox, oy, oz = -(c * q[0] + s * q[1]) / q[3], (s * q[0] - c * q[1]) / q[4], -q[2] / q[5]
    ex, ey, ez = (c * dx + s * dy) / q[3], (c * dy - s * dx) / q[4], dz / q[5]
    a, b = ex * ex + ey * ey + ez * ez, ex * ox + ey * oy + ez * oz
    disc = b * b - a * (ox * ox + oy * oy + oz * oz - 1.0)
    if disc <= 0.0:
        return np.inf, np.inf
    root = math.sqrt(disc)
    return (-b - root) / a, (-b + root) / a


@njit(cache=True, nogil=True, error_model="numpy")
def _hit_cylinder(q: NDArray[np.float64], dx: float, dy: float, dz: float) -> tuple[float, int]:
    du = q[3] * dx + q[4] * dy + q[5] * dz
    ou = -(q[3] * q[0] + q[4] * q[1] + q[5] * q[2])
    a = 1.0 - du * du
    b = -(dx * q[0] + dy * q[1] + dz * q[2]) - du * ou
    c = q[0] * q[0] + q[1] * q[1] + q[2] * q[2] - ou * ou - q[7] * q[7]
    disc = b * b - a * c
    if disc < 0.0:
        return np.inf, -1
    if a > 1e-12:
        t = (-b - math.sqrt(disc)) / a
        at = ou + t * du
        if t > 0.0 and 0.0 <= at <= q[6]:
            return t, _FACE_SIDE
    if du > 1e-12 and ou < 0.0:
        t = -ou / du
        if c + t * (2 * b + t * a) <= 0.0:
            return t, _FACE_START
    elif du < -1e-12 and ou > q[6]:
        t = (q[6] - ou) / du
        if c + t * (2 * b + t * a) <= 0.0:
            return t, _FACE_END
    return np.inf, -1


@njit(cache=True, nogil=True, error_model="numpy")
def _hit_ground(
    fields: NDArray[np.float32],
    profile: NDArray[np.float64],
    site: NDArray[np.float64],
    dx: float,
    dy: float,
    dz: float,
    clear: float,
    best: float,
) -> tuple[float, float]:
    """March along a world-aligned ray from distance ``clear``, up to which there is no ground.

    Steps are safe for the smooth relief; what they overshoot (a kerb, the last centimetres) is closed by regula falsi.
    Returns the distance (inf without a hit) and a distance up to which there is surely no ground.
    """
    x, y, z = site[0], site[1], site[2]
    fall = _SLOPE * math.hypot(dx, dy) - dz
    t = last = clear
    gap = before = z + t * dz - height(fields, profile, site[4], site[5], x + t * dx, y + t * dy)
    steps = 0
    while gap >= 0.0:
        if t >= best or fall <= 1e-6 or steps == 80:
            return np.inf, last
        steps += 1
        last, before = t, gap
        t = min(t + gap / fall + 0.003 * t + 0.002, best)
        gap = z + t * dz - height(fields, profile, site[4], site[5], x + t * dx, y + t * dy)
    low, high, end, below = last, t, before, gap
    for _ in range(30):
        t = low + (high - low) * end / (end - below)
        gap = z + t * dz - height(fields, profile, site[4], site[5], x + t * dx, y + t * dy)
        if abs(gap) < 1e-4 or high - low < 1e-4:
            break
        if gap > 0.0:
            low, end, below = t, gap, 0.5 * below  # Illinois: halve the stale end
        else:
            high, below, end = t, gap, 0.5 * end
    return t, last


@njit(cache=True, nogil=True, error_model="numpy")
def _normal(kind: int, q: NDArray[np.float64], face: int, hx: float, hy: float, hz: float) -> tuple[float, float, float]:
    """Outward unit normal of a part at a hit, viewer's frame."""
    if kind == BOX:
        return q[4 * face], q[4 * face + 1], q[4 * face + 2]
    x, y, z = hx - q[0], hy - q[1], hz - q[2]
    if kind == CYLINDER:
        if face == _FACE_START:
            return -q[3], -q[4], -q[5]
        if face == _FACE_END:
            return q[3], q[4], q[5]
        at = x * q[3] + y * q[4] + z * q[5]
        x, y, z = x - at * q[3], y - at * q[4], z - at * q[5]
    else:
        c, s = q[7], q[8]
        u, v, w = (c * x + s * y) / (q[3] * q[3]), (c * y - s * x) / (q[4] * q[4]), z / (q[5] * q[5])
        x, y, z = c * u - s * v, s * u + c * v, w
    size = math.sqrt(x * x + y * y + z * z) + 1e-12
    return x / size, y / size, z / size


@njit(cache=True, nogil=True, error_model="numpy")
def _meet_part(
    dirs: NDArray[np.float64],
    bounds: NDArray[np.int64],
    near: float,
    kind: int,
    placed: NDArray[np.float64],
    passing: float,
    p: int,
    key: int,
    start: int,
    stop: int,
    distance: NDArray[np.float64],
    part: NDArray[np.int32],
    faces: NDArray[np.int8],
) -> None:
    """Rays within the part's angular bounds that it stops earlier than what was met before; ``passing``: share of rays it lets through."""
    columns, rows = dirs.shape[0], dirs.shape[1]
    for wrap in range(0, 2 * columns, columns):
        for c in range(max(bounds[0] - wrap, start), min(bounds[1] - wrap, stop - 1) + 1):
            for r in range(bounds[2], bounds[3] + 1):
                best = distance[c, r]
                if best <= near:
                    continue
                dx, dy, dz = dirs[c, r, 0], dirs[c, r, 1], dirs[c, r, 2]
                face = 0
                if kind == BOX:
                    t, face = _hit_box(placed, dx, dy, dz, best)
                elif kind == CYLINDER:
                    t, face = _hit_cylinder(placed, dx, dy, dz)
                else:
                    t, leave = _hit_ellipsoid(placed, dx, dy, dz)
                    if kind == LEAVES and leave > 0.0 and t < best:
                        t = max(t, 0.0) - placed[6] * math.log(uniform(key, (c * rows + r) * _STRIDE + p))
                        if t > leave:
                            t = np.inf
                if 0.0 < t < best:
                    if passing > 0.0 and uniform(key, (c * rows + r) * _STRIDE + p) < passing:
                        continue
                    distance[c, r], part[c, r] = t, p
                    faces[c - start, r] = face


@njit(cache=True, nogil=True, error_model="numpy")
def _meet_ground(
    dirs: NDArray[np.float64],
    fields: NDArray[np.float32],
    profile: NDArray[np.float64],
    site: NDArray[np.float64],
    distance: NDArray[np.float64],
    part: NDArray[np.int32],
    normal: NDArray[np.float32],
) -> None:
    """Rays of one column that the ground stops earlier than any part."""
    rows = len(dirs)
    cos, sin = math.cos(site[3]), math.sin(site[3])
    rising = dirs[0, 2] <= dirs[rows - 1, 2]
    clear = 0.0  # horizontal distance without ground; a higher ray of the same vertical plane cannot meet it earlier
    for k in range(rows):
        r = k if rising else rows - 1 - k
        dx, dy, dz = dirs[r, 0], dirs[r, 1], dirs[r, 2]
        wx, wy = cos * dx - sin * dy, sin * dx + cos * dy
        flat = math.hypot(dx, dy)
        if clear / flat >= distance[r]:
            continue
        t, free = _hit_ground(fields, profile, site, wx, wy, dz, clear / flat, distance[r])
        clear = max(clear, free * flat - 1e-6)
        if t < np.inf:
            distance[r], part[r] = t, GROUND
            x, y = site[0] + t * wx, site[1] + t * wy
            here = height(fields, profile, site[4], site[5], x, y)
            gx = (here - height(fields, profile, site[4], site[5], x + 0.05, y)) / 0.05
            gy = (here - height(fields, profile, site[4], site[5], x, y + 0.05)) / 0.05
            size = math.sqrt(gx * gx + gy * gy + 1.0)
            normal[r, 0], normal[r, 1], normal[r, 2] = (cos * gx + sin * gy) / size, (cos * gy - sin * gx) / size, 1.0 / size


@njit(cache=True, nogil=True, error_model="numpy")
def cast(
    dirs: NDArray[np.float64],
    order: NDArray[np.int64],
    bounds: NDArray[np.int64],
    near: NDArray[np.float64],
    kind: NDArray[np.int8],
    placed: NDArray[np.float64],
    optics: NDArray[np.float64],
    fields: NDArray[np.float32],
    profile: NDArray[np.float64],
    site: NDArray[np.float64],
    max_range: float,
    key: int,
    start: int,
    stop: int,
    distance: NDArray[np.float64],
    part: NDArray[np.int32],
    normal: NDArray[np.float32],
) -> None:
    """Nearest hit of every ray in columns ``start`` to ``stop``; writes into the last three arguments.

    Args:
        dirs: ``(C, R, 3)`` unit directions in the viewer's frame.
        order: rows of the parts within range, nearest first.
        bounds, near, kind, placed, optics: per part.
        fields, profile: the ground.
        site: ``(6,)`` viewer's world x, y, z, yaw; origin x, y of the ground fields.
        max_range: metres.
        key: of the hash that decides what passes through leaves and railings.
        start, stop: columns.
        distance: ``(C, R)``, inf where nothing is hit.
        part: ``(C, R)`` row of the part, or NOTHING or GROUND.
        normal: ``(C, R, 3)`` surface normal towards the viewer's side of the surface.
    """
    for c in range(start, stop):
        for r in range(dirs.shape[1]):
            distance[c, r], part[c, r] = max_range, NOTHING
    faces = np.zeros((stop - start, dirs.shape[1]), dtype=np.int8)
    for p in order:
        _meet_part(dirs, bounds[p], near[p, 0], kind[p], placed[p], optics[p, 3], p, key, start, stop, distance, part, faces)
    for c in range(start, stop):
        _meet_ground(dirs[c], fields, profile, site, distance[c], part[c], normal[c])
        for r in range(dirs.shape[1]):
            p = part[c, r]
            if p == NOTHING:
                distance[c, r] = np.inf
            elif p != GROUND:
                t, dx, dy, dz = distance[c, r], dirs[c, r, 0], dirs[c, r, 1], dirs[c, r, 2]
                nx, ny, nz = _normal(kind[p], placed[p], faces[c - start, r], t * dx, t * dy, t * dz)
                normal[c, r, 0], normal[c, r, 1], normal[c, r, 2] = nx, ny, nz


@njit(cache=True, nogil=True, error_model="numpy")
def silhouette(
    dirs: NDArray[np.float64],
    rows_of_body: NDArray[np.int64],
    bounds: NDArray[np.int64],
    kind: NDArray[np.int8],
    placed: NDArray[np.float64],
    optics: NDArray[np.float64],
    max_range: float,
    key: int,
    seen: NDArray[np.bool_],
) -> int:
    """Rays that would meet any of some parts if nothing else were there; ``seen (C, R)`` is scratch and left all False."""
    columns, rows = dirs.shape[0], dirs.shape[1]
    count = 0
    for mark in (True, False):  # mark and count, then clean up
        for p in rows_of_body:
            for at in range(bounds[p, 0], bounds[p, 1] + 1):
                c = at % columns
                for r in range(bounds[p, 2], bounds[p, 3] + 1):
                    if not mark:
                        seen[c, r] = False
                        continue
                    if seen[c, r] or (optics[p, 3] > 0.0 and uniform(key, (c * rows + r) * _STRIDE + p) < optics[p, 3]):
                        continue
                    dx, dy, dz = dirs[c, r, 0], dirs[c, r, 1], dirs[c, r, 2]
                    if kind[p] == BOX:
                        t, _ = _hit_box(placed[p], dx, dy, dz, max_range)
                    elif kind[p] == CYLINDER:
                        t, _ = _hit_cylinder(placed[p], dx, dy, dz)
                    else:
                        t, _ = _hit_ellipsoid(placed[p], dx, dy, dz)
                    if 0.0 < t < max_range:
                        seen[c, r] = True
                        count += 1
    return count
