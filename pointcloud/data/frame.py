"""One LiDAR scan with whatever is known about it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = ("intensity", "elongation", "time", "r", "g", "b", "nx", "ny", "nz", "ring")


@dataclass(kw_only=True)
class Frame:
    """A scan in the LiDAR frame (x forward, y left, z up, metres).

    Attributes:
        name: unique within the data set, ``sequence/frame`` where there are sequences.
        sequence: name of the drive the scan belongs to (its own name where there are no sequences).
        xyz: ``(N, 3)`` float32, metres.
        feats: ``(N, C)`` float32, one column per entry of ``channels``.
        channels: names out of :data:`CHANNELS`; intensity in [0, 1], time in seconds relative to this sweep (<= 0).
        timestamp: seconds, or None.
        pose: ``(4, 4)`` float64 LiDAR-to-world transform, or None.
        boxes: ``(M, 7)`` or ``(M, 9)`` float32 (cx, cy, cz, dx, dy, dz, yaw[, vx, vy]), or None if unlabelled.
        classes: length-M list of class names, parallel to boxes.
        track_ids: ``(M,)`` int64, or None.
        point_labels: ``(N,)`` int64 semantic class ids, or None.
        instances: ``(N,)`` int64 instance ids (0 = none), or None.
        flow: ``(N, 3)`` float32 metres to the next frame, in this frame, or None.
        rows: ``(N,)`` int64 row of each point in the scan as it was read (-1 = not from it, e.g. pasted), or None when nobody asked.
        meta: anything format specific (calibration, image path, KITTI label rows, ...).
    """

    name: str
    sequence: str
    xyz: NDArray[np.float32]
    feats: NDArray[np.float32]
    channels: tuple[str, ...]
    timestamp: float | None = None
    pose: NDArray[np.float64] | None = None
    boxes: NDArray[np.float32] | None = None
    classes: list[str] = field(default_factory=list)
    track_ids: NDArray[np.int64] | None = None
    point_labels: NDArray[np.int64] | None = None
    instances: NDArray[np.int64] | None = None
    flow: NDArray[np.float32] | None = None
    rows: NDArray[np.int64] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def keep_points(self, keep: NDArray[Any]) -> Frame:
        """Frame with the points selected by a bool mask or an index array; boxes stay."""
        rows = np.flatnonzero(keep) if keep.dtype == np.bool_ else keep  # taking rows is several times faster than a mask
        pick = lambda array: None if array is None else array.take(rows, axis=0)  # noqa: E731
        return replace(
            self,
            xyz=self.xyz.take(rows, axis=0),
            feats=self.feats.take(rows, axis=0),
            point_labels=pick(self.point_labels),
            instances=pick(self.instances),
            flow=pick(self.flow),
            rows=pick(self.rows),
        )

    def keep_boxes(self, keep: NDArray[Any]) -> Frame:
        """Frame with the boxes selected by a bool mask or an index array; points stay."""
        if self.boxes is None:
            return self
        rows = np.arange(len(self.boxes))[keep]
        return replace(
            self,
            boxes=self.boxes[rows],
            classes=[self.classes[row] for row in rows],
            track_ids=None if self.track_ids is None else self.track_ids[rows],
        )
