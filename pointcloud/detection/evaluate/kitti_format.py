"""KITTI object annotations and results: one text file an image, 15 columns (16 with a score).

Columns: type, truncated, occluded, alpha, left, top, right, bottom (pixels), height, width, length (metres),
x, y, z (bottom centre in the rectified camera frame: x right, y down, z forward), rotation_y, score.
Format: KITTI object development kit, ``readme.txt``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.source import BadSample

Array = NDArray[np.float64]
NEAR = 0.1


@dataclass(kw_only=True)
class KittiObjects:
    """The objects of one image, ground truth or detections.

    Attributes:
        names: M class names.
        truncated: ``(M,)`` share outside the image, 0 to 1 (-1 unknown).
        occluded: ``(M,)`` 0 visible, 1 partly, 2 largely, 3 unknown (-1 not given).
        alpha: ``(M,)`` observation angle, radians; -10 = not given.
        bbox: ``(M, 4)`` left, top, right, bottom in pixels.
        dimensions: ``(M, 3)`` height, width, length in metres.
        location: ``(M, 3)`` bottom centre, rectified camera frame, metres; -1000 = not given.
        rotation_y: ``(M,)`` radians about the camera's y axis.
        score: ``(M,)`` for detections, None for ground truth.
    """

    names: list[str]
    truncated: Array
    occluded: Array
    alpha: Array
    bbox: Array
    dimensions: Array
    location: Array
    rotation_y: Array
    score: Array | None = None

    def __len__(self) -> int:
        return len(self.names)

    def camera_boxes(self) -> Array:
        """``(M, 7)`` boxes in the z-up frame (x right, z forward, y up): what the overlap functions take."""
        height, width, length = self.dimensions.T
        x, y, z = self.location.T
        return np.stack([x, z, -y + 0.5 * height, length, width, height, -self.rotation_y], axis=1)


def parse_kitti_objects(text: str, *, path: str | Path = "<text>") -> KittiObjects:
    """Objects from the text of a label or result file. Raises :class:`BadSample` naming the line that is wrong."""
    names, rows = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) not in (15, 16):
            raise BadSample(path, f"line {number}: expected 15 columns (16 with a score), got {len(fields)}")
        try:
            rows.append([float(value) for value in fields[1:]])
        except ValueError as error:
            raise BadSample(path, f"line {number}: {error}") from None
        names.append(fields[0])
    if len({len(row) for row in rows}) > 1:
        raise BadSample(path, "some lines have a score and some have none")
    table = np.array(rows, dtype=np.float64) if rows else np.zeros((0, 15))
    return KittiObjects(
        names=names,
        truncated=table[:, 0],
        occluded=table[:, 1],
        alpha=table[:, 2],
        bbox=table[:, 3:7],
        dimensions=table[:, 7:10],
        location=table[:, 10:13],
        rotation_y=table[:, 13],
        score=table[:, 14] if table.shape[1] == 15 else None,
    )


def read_kitti_objects(path: str | Path) -> KittiObjects:
    """Objects of a label or result file. Raises :class:`BadSample` for a missing or malformed file."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSample(path, f"cannot be read as a KITTI label file: {error}") from None
    return parse_kitti_objects(text, path=path)


def write_kitti_objects(path: str | Path, objects: KittiObjects) -> None:
    """Write a label file, or a result file if ``objects`` have scores. Written beside and renamed."""
    numbers = [objects.truncated[:, None], objects.occluded[:, None], objects.alpha[:, None], objects.bbox]
    numbers += [objects.dimensions, objects.location, objects.rotation_y[:, None]]
    table = np.concatenate(numbers, axis=1)
    lines = []
    for row, (name, values) in enumerate(zip(objects.names, table, strict=True)):
        fields = [name, f"{values[0]:.2f}", f"{values[1]:.0f}", *(f"{value:.4f}" for value in values[2:])]
        if objects.score is not None:
            fields.append(f"{objects.score[row]:.6f}")
        lines.append(" ".join(fields) + "\n")
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(lines))
    temporary.replace(target)


def lidar_boxes_to_kitti(
    boxes: ArrayLike,
    names: Sequence[str],
    scores: ArrayLike | None = None,
    *,
    lidar_to_camera: ArrayLike,
    projection: ArrayLike,
    image_size: tuple[int, int],
) -> KittiObjects:
    """Boxes in the LiDAR frame -> KITTI objects, as in a result file; boxes that show nothing in the image are left out.

    Args:
        boxes: ``(M, 7 | 9)`` (cx, cy, cz, dx, dy, dz, yaw[, vx, vy]), metres.
        names: M class names.
        scores: ``(M,)`` or None.
        lidar_to_camera: ``(4, 4)`` into the rectified camera frame (``R0_rect @ Tr_velo_to_cam``).
        projection: ``(3, 4)`` camera matrix (``P2``).
        image_size: (width, height) in pixels.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    boxes = boxes.reshape(-1, boxes.shape[-1] if boxes.ndim == 2 else 7)[:, :7]
    transform, camera = np.asarray(lidar_to_camera, dtype=np.float64), np.asarray(projection, dtype=np.float64)
    if transform.shape != (4, 4) or camera.shape != (3, 4):
        raise ValueError(f"expected lidar_to_camera (4, 4) and projection (3, 4), got {transform.shape} and {camera.shape}")
    bottom = boxes[:, :3] - np.array([0, 0, 0.5]) * boxes[:, 5:6]
    location = bottom @ transform[:3, :3].T + transform[:3, 3]
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], axis=1) @ transform[:3, :3].T
    rotation_y = np.arctan2(-heading[:, 2], heading[:, 0])
    bbox, seen = _image_boxes(box_corners(boxes) @ transform[:3, :3].T + transform[:3, 3], camera, image_size)
    alpha = _wrap(rotation_y - np.arctan2(location[:, 0], location[:, 2]))
    return KittiObjects(
        names=[name for name, keep in zip(names, seen, strict=True) if keep],
        truncated=np.full(seen.sum(), -1.0),
        occluded=np.full(seen.sum(), -1.0),
        alpha=alpha[seen],
        bbox=bbox[seen],
        dimensions=boxes[seen][:, [5, 4, 3]],
        location=location[seen],
        rotation_y=rotation_y[seen],
        score=None if scores is None else np.asarray(scores, dtype=np.float64)[seen],
    )


def kitti_to_lidar_boxes(objects: KittiObjects, lidar_to_camera: ArrayLike) -> Array:
    """``(M, 7)`` LiDAR-frame boxes of the objects: the inverse of :func:`lidar_boxes_to_kitti`."""
    inverse = np.linalg.inv(np.asarray(lidar_to_camera, dtype=np.float64))
    height, width, length = objects.dimensions.T
    center = objects.location @ inverse[:3, :3].T + inverse[:3, 3] + np.stack([0 * height, 0 * height, 0.5 * height], axis=1)
    heading = np.stack([np.cos(objects.rotation_y), 0 * height, -np.sin(objects.rotation_y)], axis=1) @ inverse[:3, :3].T
    return np.concatenate([center, np.stack([length, width, height, np.arctan2(heading[:, 1], heading[:, 0])], axis=1)], axis=1)


def box_corners(boxes: Array) -> Array:
    """``(M, 7)`` boxes -> ``(M, 8, 3)`` corners; 0-3 the bottom from front left counter-clockwise, 4-7 the top."""
    signs = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]])
    offsets = 0.5 * signs * boxes[:, None, 3:6]  # [M, 8, 3]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x, y, z = np.moveaxis(offsets, 2, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=2) + boxes[:, None, :3]


def _image_boxes(corners: Array, camera: Array, image_size: tuple[int, int]) -> tuple[Array, NDArray[np.bool_]]:
    """Tight pixel boxes ``(M, 4)`` of ``(M, 8, 3)`` camera-frame corners, clipped to the image, and which of them show."""
    edges = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
    limit = np.array([image_size[0] - 1.0, image_size[1] - 1.0])
    bbox, seen = np.zeros((len(corners), 4)), np.zeros(len(corners), dtype=bool)
    for row, points in enumerate(corners):
        front = points[points[:, 2] >= NEAR]
        start, end = points[edges[:, 0]], points[edges[:, 1]]
        crossing = (start[:, 2] >= NEAR) != (end[:, 2] >= NEAR)
        step = (NEAR - start[crossing, 2]) / (end[crossing, 2] - start[crossing, 2])
        visible = np.concatenate([front, start[crossing] + step[:, None] * (end[crossing] - start[crossing])])
        if not len(visible):
            continue
        homogeneous = visible @ camera[:, :3].T + camera[:, 3]
        pixels = homogeneous[:, :2] / homogeneous[:, 2:]
        low, high = np.clip(pixels.min(axis=0), 0, limit), np.clip(pixels.max(axis=0), 0, limit)
        bbox[row] = *low, *high
        seen[row] = bool((high > low).all())
    return bbox, seen


def _wrap(angle: Array) -> Array:
    return (angle + np.pi) % (2 * np.pi) - np.pi
