"""One drive: the street, the things in it, and where each thing is at every frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.street.ground import Street
from suite3d.pointcloud.data.street.occupancy import Occupancy
from suite3d.pointcloud.data.street.shapes import Body, Parts


@dataclass(kw_only=True)
class Drive:
    """Everything needed to render any frame of a sequence. B bodies, F frames.

    Attributes:
        street: ground and geometry of the street.
        bodies: the rigid things; those named in ``CLASS_NAMES`` carry boxes.
        parts: their parts, packed.
        poses: ``(B, F + 2, 4)`` float64 world x, y, z (ground level), yaw; column f + 1 is frame f, so that the frames
            before the first and after the last give velocities and flow.
        sizes: ``(B, 3)`` extents of the bodies.
        tracks: ``(B,)`` int64 track id of bodies with boxes (from 1), 0 for the others.
        ego: ``(F + 2, 4)`` float64 world x, y, z, yaw of the LiDAR.
    """

    street: Street
    bodies: list[Body]
    parts: Parts
    poses: NDArray[np.float64]
    sizes: NDArray[np.float64]
    tracks: NDArray[np.int64]
    ego: NDArray[np.float64]


class Scene:
    """Collects bodies while a drive is laid out.

    Args:
        street: the street.
        times: ``(F + 2,)`` seconds of the frames, one before the first and one after the last included.
    """

    def __init__(self, street: Street, times: NDArray[np.float64]) -> None:
        self.street = street
        self.times = times
        self.occupancy = Occupancy(len(times))
        self.bodies: list[Body] = []
        self.paths: list[NDArray[np.float64]] = []

    def path(self, length: NDArray[np.float64], offset: NDArray[np.float64], turn: float = 0.0) -> NDArray[np.float64]:
        """``(n, 3)`` world x, y, yaw of positions along the street, turned by ``turn`` radians against it."""
        x, y, yaw = self.street.place(np.atleast_1d(length), np.atleast_1d(offset))
        return np.stack([x, y, yaw + turn], axis=-1)

    def put(self, body: Body, path: NDArray[np.float64], *, margin: float | None, footprint: NDArray[np.float64] | None = None) -> bool:
        """Place a body on a path if nothing is in the way.

        Args:
            body: the thing.
            path: ``(1 | F + 2, 3)`` world x, y, yaw.
            margin: clearance in metres; None places it regardless of what is there.
            footprint: ``(2,)`` length and width that must stay clear, default the body's (a crown may overhang).
        """
        size = body.size if footprint is None else footprint
        if margin is None:
            self.occupancy.add(path, size)
        elif not self.occupancy.claim(path, size, margin=margin):
            return False
        self.bodies.append(body)
        self.paths.append(path)
        return True

    def poses(self) -> NDArray[np.float64]:
        """``(B, F + 2, 4)`` with the ground height filled in."""
        steps = len(self.times)
        poses = np.empty((len(self.paths), steps, 4))
        for row, path in enumerate(self.paths):
            height = self.street.height(path[:, :2])
            poses[row, :, :2], poses[row, :, 2], poses[row, :, 3] = path[:, :2], height, path[:, 2]
        return poses
