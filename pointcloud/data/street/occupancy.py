"""Who stands where and when: keeps things from driving or growing through one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def rectangles_overlap(centre_a: Array, yaw_a: Array, half_a: Array, centre_b: Array, yaw_b: Array, half_b: Array) -> NDArray[np.bool_]:
    """Separating-axis test of rotated rectangles, broadcasting.

    Args:
        centre_a, centre_b: ``(..., 2)`` metres.
        yaw_a, yaw_b: ``(...)`` radians.
        half_a, half_b: ``(..., 2)`` half extents along and across the yaw.
    """
    gap = centre_b - centre_a
    turn = yaw_b - yaw_a
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    apart = np.zeros(np.broadcast_shapes(gap.shape[:-1], turn.shape), dtype=bool)
    for yaw, own, other in ((yaw_a, half_a, half_b), (yaw_b, half_b, half_a)):
        along = np.abs(gap[..., 0] * np.cos(yaw) + gap[..., 1] * np.sin(yaw))
        across = np.abs(gap[..., 1] * np.cos(yaw) - gap[..., 0] * np.sin(yaw))
        apart |= along > own[..., 0] + other[..., 0] * cos + other[..., 1] * sin
        apart |= across > own[..., 1] + other[..., 0] * sin + other[..., 1] * cos
    return ~apart


class Occupancy:
    """Footprints of everything placed so far, over ``steps`` moments.

    Still things are kept once; moving things have one pose per moment.

    Args:
        steps: number of moments.
    """

    def __init__(self, steps: int) -> None:
        self._still = np.empty((0, 5))  # x, y, yaw, half length, half width
        self._moving = np.empty((0, steps, 3))
        self._moving_half = np.empty((0, 2))

    def free(self, path: Array, size: Array, *, margin: float) -> bool:
        """Whether a footprint can follow a path without coming within ``margin`` metres of anything.

        Args:
            path: ``(1 | steps, 3)`` x, y, yaw.
            size: ``(>= 2,)`` length and width, metres.
            margin: metres added around the footprint.
        """
        half = np.asarray(size[:2]) / 2 + margin
        reach = float(np.hypot(*half))
        for centres, yaws, halves in (
            (self._still[:, None, :2], self._still[:, None, 2], self._still[:, 3:]),
            (self._moving[..., :2], self._moving[..., 2], self._moving_half),
        ):
            if not len(centres):
                continue
            distance2 = ((centres - path[None, :, :2]) ** 2).sum(-1)  # (N, steps)
            rows, moments = np.nonzero(distance2 < (np.hypot(halves[:, 0], halves[:, 1]) + reach)[:, None] ** 2)
            if not len(rows):
                continue
            own = np.minimum(moments, len(path) - 1)
            theirs = np.minimum(moments, centres.shape[1] - 1)
            if rectangles_overlap(path[own, :2], path[own, 2], half[None], centres[rows, theirs], yaws[rows, theirs], halves[rows]).any():
                return False
        return True

    def add(self, path: Array, size: Array) -> None:
        """Occupy a path; see :meth:`free`."""
        half = np.asarray(size[:2], dtype=float) / 2
        if len(path) == 1:
            self._still = np.concatenate([self._still, np.concatenate([path[0], half])[None]])
        else:
            self._moving = np.concatenate([self._moving, path[None]])
            self._moving_half = np.concatenate([self._moving_half, half[None]])

    def claim(self, path: Array, size: Array, *, margin: float) -> bool:
        """:meth:`add` if :meth:`free`; returns whether it was."""
        if not self.free(path, size, margin=margin):
            return False
        self.add(path, size)
        return True
