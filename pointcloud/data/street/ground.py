"""The street itself: a curved centre line, its cross section, and the ground under everything.

The ground is described by four smooth fields sampled every two metres (relief, offset from the centre line, distance to
the nearest side street, length along the street); kerbs, markings and materials are analytic functions of them, so they
stay sharp while a drive costs a few hundred kilobytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

CELL = 2.0
"""Metres between samples of the ground fields."""

KERB = 0.05
"""Metres over which a kerb rises."""

LEFT, RIGHT, KERB_HEIGHT, LEFT_WALK, RIGHT_WALK, CROSSING, CROSSING_LENGTH, LINE_COUNT, FIRST_LINE = range(9)
"""Slots of the profile vector; from FIRST_LINE on pairs (offset of a painted line, 1 if dashed)."""

ROAD, MARKING, SIDEWALK, TERRAIN = 1, 2, 3, 4
"""Semantic ids of the ground, as in ``shapes.POINT_CLASSES``."""

GROUND_LABELS = (ROAD, MARKING, SIDEWALK, TERRAIN)


@njit(cache=True, nogil=True, error_model="numpy")
def sample(fields: NDArray[np.float32], x0: float, y0: float, x: float, y: float) -> tuple[float, float, float, float]:
    """Bilinear relief, offset, side-street distance and length at a world position; clamped at the border."""
    u = min(max((x - x0) / CELL, 0.0), fields.shape[0] - 1.000001)
    v = min(max((y - y0) / CELL, 0.0), fields.shape[1] - 1.000001)
    i, j = int(u), int(v)
    u -= i
    v -= j
    a, b, c, d = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
    p, q, r, s = fields[i, j], fields[i, j + 1], fields[i + 1, j], fields[i + 1, j + 1]
    return (
        a * p[0] + b * q[0] + c * r[0] + d * s[0],
        a * p[1] + b * q[1] + c * r[1] + d * s[1],
        a * p[2] + b * q[2] + c * r[2] + d * s[2],
        a * p[3] + b * q[3] + c * r[3] + d * s[3],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def height(fields: NDArray[np.float32], profile: NDArray[np.float64], x0: float, y0: float, x: float, y: float) -> float:
    """Ground height at a world position, metres."""
    u = min(max((x - x0) / CELL, 0.0), fields.shape[0] - 1.000001)
    v = min(max((y - y0) / CELL, 0.0), fields.shape[1] - 1.000001)
    i, j = int(u), int(v)
    u -= i
    v -= j
    p, q, r, s = fields[i, j], fields[i, j + 1], fields[i + 1, j], fields[i + 1, j + 1]
    a, b, c, d = (1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v
    relief = a * p[0] + b * q[0] + c * r[0] + d * s[0]
    offset = a * p[1] + b * q[1] + c * r[1] + d * s[1]
    beyond = max(offset - profile[LEFT], -profile[RIGHT] - offset)
    if beyond <= 0.0:
        return relief
    side = a * p[2] + b * q[2] + c * r[2] + d * s[2]
    return relief + profile[KERB_HEIGHT] * min(max(min(beyond, side) / KERB, 0.0), 1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def surface(fields: NDArray[np.float32], profile: NDArray[np.float64], x0: float, y0: float, x: float, y: float) -> int:
    """Semantic id of the ground at a world position."""
    _, offset, side, length = sample(fields, x0, y0, x, y)
    beyond = max(offset - profile[LEFT], -profile[RIGHT] - offset)
    if beyond > 0.0:
        if side <= 0.0:
            return ROAD
        walk = profile[LEFT_WALK] if offset > 0 else profile[RIGHT_WALK]
        return SIDEWALK if beyond < walk or side < 1.8 else TERRAIN
    if 0.0 <= length - profile[CROSSING] <= profile[CROSSING_LENGTH]:
        return MARKING if (offset + 100.0) % 1.0 < 0.5 else ROAD
    if side > 0.0:
        for k in range(int(profile[LINE_COUNT])):
            line, dashed = profile[FIRST_LINE + 2 * k], profile[FIRST_LINE + 2 * k + 1]
            if abs(offset - line) < 0.07 and (dashed == 0.0 or (length + 9000.0) % 9.0 < 3.0):
                return MARKING
    return ROAD


@njit(cache=True, nogil=True, error_model="numpy")
def heights(fields: NDArray[np.float32], profile: NDArray[np.float64], x0: float, y0: float, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """:func:`height` of ``(N, 2)`` positions."""
    out = np.empty(len(xy))
    for i in range(len(xy)):
        out[i] = height(fields, profile, x0, y0, xy[i, 0], xy[i, 1])
    return out


@dataclass(kw_only=True)
class SideStreet:
    """Street leaving at right angles.

    Attributes:
        length: where, metres along the main street.
        half: half its width, metres.
        left, right: whether it leaves to the left (+) and to the right of the main street.
    """

    length: float
    half: float
    left: bool
    right: bool


class Street:
    """Curved street through the origin with its cross section.

    The centre line is y = f(x), f a sum of sines of small slope; positions are (length along it, offset to its left).

    Args:
        rng: generator of the drive.
        behind, ahead: metres of street before and after the origin.
        reach: metres of ground to either side.
    """

    def __init__(self, rng: np.random.Generator, *, behind: float, ahead: float, reach: float) -> None:
        self._x = np.arange(-behind - 40.0, ahead + 40.0, 0.5)
        slopes = rng.uniform(0.0, 0.22, 2)
        waves = rng.uniform((150.0, 260.0), (240.0, 420.0))
        phases = rng.uniform(0, 2 * np.pi, 2)
        angle = 2 * np.pi * self._x[:, None] / waves + phases
        self._y = (slopes * waves / (2 * np.pi) * np.sin(angle)).sum(1)
        self._slope = (slopes * np.cos(angle)).sum(1)
        step = np.hypot(1.0, (self._slope[1:] + self._slope[:-1]) / 2) * 0.5
        self._s = np.concatenate([[0.0], step.cumsum()])
        self._s -= np.interp(0.0, self._x, self._s)
        self._y -= np.interp(0.0, self._x, self._y)
        self._draw_section(rng)
        self._draw_side_streets(rng, behind, ahead)
        self._draw_ground(rng, behind, ahead, reach)

    def _draw_section(self, rng: np.random.Generator) -> None:
        count = 2 if rng.random() < 0.3 else 1
        lane = float(rng.uniform(3.1, 3.6))
        self.lanes = [((k + 0.5) * lane * sign, -sign) for sign in (1, -1) for k in range(count)]  # right-hand traffic
        self.bike = [float(rng.uniform(1.4, 1.8)) if rng.random() < 0.5 else 0.5 for _ in range(2)]  # left, right
        self.parking = [str(rng.choice(["parallel", "none", "bays"], p=[0.65, 0.17, 0.18])) for _ in range(2)]
        bay = {"parallel": 2.3, "none": 0.3, "bays": 5.4}
        self.half = [count * lane + self.bike[k] + bay[self.parking[k]] for k in range(2)]
        self.walk = [float(rng.uniform(2.8, 4.6)) for _ in range(2)]
        self.yard = [float(rng.choice([0.3, rng.uniform(2.0, 7.0)])) for _ in range(2)]
        self.edge = count * lane
        lines = [(0.0, float(count == 1)), (self.edge, 0.0), (-self.edge, 0.0)]
        lines += [(lane, 1.0), (-lane, 1.0)] if count == 2 else []
        lines += [(sign * (self.edge + self.bike[k]), 0.0) for k, sign in ((0, 1), (1, -1)) if self.bike[k] > 1.0]
        self.profile = np.zeros(FIRST_LINE + 2 * len(lines))
        self.profile[[LEFT, RIGHT, KERB_HEIGHT, LEFT_WALK, RIGHT_WALK]] = [*self.half, float(rng.uniform(0.09, 0.16)), *self.walk]
        self.profile[LINE_COUNT] = len(lines)
        self.profile[FIRST_LINE:] = np.ravel(lines)

    def _draw_side_streets(self, rng: np.random.Generator, behind: float, ahead: float) -> None:
        self.side_streets: list[SideStreet] = []
        spot = -behind + float(rng.uniform(0, 60))
        while spot < ahead:
            both = rng.random() < 0.5
            left = bool(both or rng.random() < 0.5)
            self.side_streets.append(SideStreet(length=spot, half=float(rng.uniform(2.8, 4.5)), left=left, right=bool(both or not left)))
            spot += float(rng.uniform(55, 110))
        near = min((street.length for street in self.side_streets), key=lambda s: abs(s - 15.0), default=20.0)
        half = max((street.half for street in self.side_streets), default=0.0)
        self.crossing = near - half - 4.5
        self.profile[[CROSSING, CROSSING_LENGTH]] = [self.crossing, 3.2 if rng.random() < 0.7 else 0.0]

    def _draw_ground(self, rng: np.random.Generator, behind: float, ahead: float, reach: float) -> None:
        low, high = self._y.min() - reach, self._y.max() + reach
        self.x0, self.y0 = -behind - 10.0, float(low)
        gx = self.x0 + CELL * np.arange(math.ceil((behind + ahead + 20.0) / CELL) + 1)
        gy = self.y0 + CELL * np.arange(math.ceil((high - low) / CELL) + 1)
        x, y = np.meshgrid(gx, gy, indexing="ij")
        foot = x.copy()
        for _ in range(6):  # damped fixed point for the foot of the perpendicular
            slope = np.interp(foot, self._x, self._slope)
            foot += 0.8 * ((x - foot) + (y - np.interp(foot, self._x, self._y)) * slope) / (1.0 + slope**2)
            foot = np.clip(foot, self._x[0], self._x[-1])
        slope = np.interp(foot, self._x, self._slope)
        offset = ((y - np.interp(foot, self._x, self._y)) - (x - foot) * slope) / np.hypot(1.0, slope)
        length = np.interp(foot, self._x, self._s)
        side = np.full(x.shape, 1e3)
        for street in self.side_streets:
            across, along = self._side_coordinates(street, x, y)
            distance = np.abs(along) - street.half
            if not (street.left and street.right):
                distance = np.where(across > 0, distance if street.left else 1e3, distance if street.right else 1e3)
            side = np.minimum(side, distance)
        waves = rng.uniform((70.0, 45.0, 120.0), (160.0, 90.0, 260.0))
        heading = rng.uniform(0, 2 * np.pi, 3)
        tilt = rng.uniform(0.0, 0.018, 3)
        phase = rng.uniform(0, 2 * np.pi, 3)
        relief = sum(
            t * w / (2 * np.pi) * np.sin(2 * np.pi * (x * np.cos(h) + y * np.sin(h)) / w + p)
            for t, w, h, p in zip(tilt, waves, heading, phase, strict=True)
        )
        for sign, k in ((1, 0), (-1, 1)):  # verges and gardens climb or fall away from the street
            beyond = np.maximum(sign * offset - self.half[k] - self.walk[k] - 1.0, 0.0)
            relief = relief + float(rng.uniform(-0.4, 1.2)) * (beyond / 12.0) ** 2 / (1.0 + (beyond / 12.0) ** 2) * np.clip(side / 8.0, 0.0, 1.0)
        relief = relief - 0.02 * np.minimum(np.abs(offset), 6.0)  # crown of the road
        self.fields = np.stack([relief, offset, np.minimum(side, 1e3), length], axis=-1).astype(np.float32)

    def _side_coordinates(
        self, street: SideStreet, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        cx, cy, yaw = self.place(np.array(street.length), np.array(0.0))
        along = (x - cx) * np.cos(yaw) + (y - cy) * np.sin(yaw)
        across = -(x - cx) * np.sin(yaw) + (y - cy) * np.cos(yaw)
        return across, along

    def place(self, length: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """World x, y and heading of the street at (length, offset); any broadcastable shapes."""
        x = np.interp(length, self._s, self._x)
        yaw = np.arctan(np.interp(x, self._x, self._slope))
        y = np.interp(x, self._x, self._y)
        return x - offset * np.sin(yaw), y + offset * np.cos(yaw), yaw + 0.0 * offset

    def height(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """``(...)`` ground height at ``(..., 2)`` world positions."""
        flat = np.ascontiguousarray(xy, dtype=np.float64).reshape(-1, 2)
        return heights(self.fields, self.profile, self.x0, self.y0, flat).reshape(xy.shape[:-1])
