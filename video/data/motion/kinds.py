"""The classes of the motion set: directions in which the state of a shape drifts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS: dict[str, tuple[int, int, int, int]] = {
    "still": (0, 0, 0, 0),
    "left": (-1, 0, 0, 0),
    "right": (1, 0, 0, 0),
    "up": (0, -1, 0, 0),
    "down": (0, 1, 0, 0),
    "clockwise": (0, 0, 1, 0),
    "counterclockwise": (0, 0, -1, 0),
    "grow": (0, 0, 0, 1),
    "shrink": (0, 0, 0, -1),
}
"""Class name -> signs of the drift in (x to the right, y down, angle clockwise, size)."""

SPEEDS = ((0.022, 0.045), (0.022, 0.045), (0.016, 0.034), (0.015, 0.03))
"""Slowest and fastest drift per frame, in periods: of x and y the width of the picture, of the angle a full turn, of the size its range."""


def drift(kind: str, start: NDArray[np.float64], speed: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """``(frames, N, 4)`` states of N things that move alike, not yet wrapped to [0, 1).

    All four coordinates are periodic. With a uniform ``start`` the state in every single frame is uniform too, whatever the class and the
    speed: one frame says nothing about the class.

    Args:
        kind: key of :data:`KINDS`.
        start: ``(N, 4)`` in [0, 1): x, y, angle, size.
        speed: ``(4,)`` or ``(N, 4)`` periods per frame, of which the class uses one coordinate, or none.
        frames: how many.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of motion '{kind}': expected one of {', '.join(KINDS)}")
    time = np.arange(frames, dtype=np.float64)[:, None, None]
    return start + time * np.array(KINDS[kind], dtype=np.float64) * speed
