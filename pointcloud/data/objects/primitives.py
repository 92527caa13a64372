"""Surfaces that procedural objects are made of: superquadrics, supertoroids, lathed profiles, extruded outlines and boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.pointcloud.data.objects.mesh import Mesh


def superquadric(*, north: float = 1.0, east: float = 1.0, steps: int = 24) -> Mesh:
    """Superellipsoid in [-1, 1]^3: ``(cos^n(v) cos^e(u), cos^n(v) sin^e(u), sin^n(v))`` with signed powers.

    Exponents 1, 1 make a sphere, near 0 a box, (small, 1) a cylinder, 2 an octahedron's edges (Barr, "Superquadrics and Angle-Preserving
    Transformations", 1981).

    Args:
        north, east: exponents, > 0.
        steps: facets from pole to pole; twice as many around.
    """
    v = np.linspace(-np.pi / 2, np.pi / 2, steps + 1)[:, None]
    u = np.linspace(-np.pi, np.pi, 2 * steps, endpoint=False)[None, :]
    x, y = _power(np.cos(v), north) * _power(np.cos(u), east), _power(np.cos(v), north) * _power(np.sin(u), east)
    return _grid(np.stack([x, y, np.broadcast_to(_power(np.sin(v), north), x.shape)], axis=2))


def supertoroid(*, ring: float, tube: float, north: float = 1.0, arc: float = 2 * np.pi, steps: int = 16) -> Mesh:
    """Torus about z: a tube of radius ``tube`` along ``arc`` radians of a circle of radius ``ring``; ``north`` is the exponent of the tube's
    section (1 = round, near 0 = square). A part of a circle is open at its ends."""
    v = np.linspace(-np.pi, np.pi, steps + 1)[:, None]
    closed = arc >= 2 * np.pi
    u = np.linspace(-arc / 2, arc / 2, 2 * steps + (not closed), endpoint=not closed)[None, :]
    radius = ring + tube * _power(np.cos(v), north)
    height = tube * _power(np.sin(v), north) * np.ones_like(u)
    return _grid(np.stack([radius * np.cos(u), radius * np.sin(u), height], axis=2), around=closed)


def lathe(profile: ArrayLike, *, steps: int = 32) -> Mesh:
    """Surface of revolution about z of a profile ``(K, 2)`` of (radius, height), followed with the inside on its left (upwards = outside)."""
    radius, height = np.asarray(profile, dtype=np.float64).T
    u = np.linspace(-np.pi, np.pi, steps, endpoint=False)[None, :]
    radius = radius[:, None]
    return _grid(np.stack([radius * np.cos(u), radius * np.sin(u), height[:, None] * np.ones_like(u)], axis=2))


def extrude(outline: ArrayLike, height: float) -> Mesh:
    """Prism over an outline ``(K, 2)``, counter-clockwise and seen whole from the origin, from z = 0 to ``height``, with both lids."""
    xy = np.asarray(outline, dtype=np.float64)
    count = len(xy)
    low = np.column_stack([xy, np.zeros(count)])
    high = np.column_stack([xy, np.full(count, height)])
    vertices = np.concatenate([low, high, [[0, 0, 0], [0, 0, height]]])
    i = np.arange(count)
    j = (i + 1) % count
    sides = [np.stack([i, j, j + count], axis=1), np.stack([i, j + count, i + count], axis=1)]
    lids = [np.stack([np.full(count, 2 * count), j, i], axis=1), np.stack([np.full(count, 2 * count + 1), i + count, j + count], axis=1)]
    return Mesh(vertices, np.concatenate(sides + lids))


def box(x: float, y: float, z: float) -> Mesh:
    """Box of those sizes, standing on the origin."""
    corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)], dtype=np.float64) / 2 * (x, y)
    return extrude(corners, z)


def cylinder(radius: float, height: float, *, top: float | None = None) -> Mesh:
    """Closed cylinder standing on the origin; ``top`` = radius of its upper end, 0 for a cone."""
    end = radius if top is None else top
    return lathe([(0, 0), (radius, 0), (end, height), (0, height)])


def star_outline(points: int, inner: float) -> NDArray[np.float64]:
    """``(2 points, 2)`` outline of a star of radius 1, with ``inner`` radius between its points."""
    angle = np.arange(2 * points) * np.pi / points
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def gear_outline(teeth: int, inner: float) -> NDArray[np.float64]:
    """``(4 teeth, 2)`` outline of a gear wheel of radius 1; between the teeth ``inner``."""
    share = np.array([-0.25, -0.15, 0.15, 0.25]) * 2  # foot, head, head, foot of a tooth, in half steps
    angle = (np.arange(teeth)[:, None] + share / 2).ravel() * 2 * np.pi / teeth
    radius = np.tile([inner, 1.0, 1.0, inner], teeth)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def cross_outline(width: float) -> NDArray[np.float64]:
    """``(12, 2)`` outline of a plus sign with arms of length 1 and a half ``width``."""
    quarter = np.array([(1, -width), (1, width), (width, width)])
    turn = np.array([(0, 1), (-1, 0)])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _power(base: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return np.sign(base) * np.abs(base) ** exponent


def _grid(points: NDArray[np.float64], *, around: bool = True) -> Mesh:
    """Quads of a ``(rows, columns, 3)`` grid as two triangles each; ``around``: the last column meets the first."""
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(number, -1, axis=1) if around else number[:, 1:]
    left = number if around else number[:, :-1]
    a, b, c, d = left[:-1], right[:-1], right[1:], left[1:]
    faces = np.concatenate([np.stack([a, b, c], axis=2).reshape(-1, 3), np.stack([a, c, d], axis=2).reshape(-1, 3)])
    return Mesh(points.reshape(-1, 3), faces)
