"""KITTI label rows, their LiDAR boxes, and the way back to official result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_text
from suite3d.pointcloud.data.kitti_calibration import KittiCalibration

_NEAR = 0.1  # metres; box edges are cut here before projection
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])


@dataclass
class KittiLabels:
    """Rows of a label or result file, in rectified camera coordinates.

    Attributes:
        classes: K names, as written.
        truncated, occluded, alpha: ``(K,)`` float64.
        boxes2d: ``(K, 4)`` pixels: left, top, right, bottom.
        sizes: ``(K, 3)`` height, width, length, metres.
        centers: ``(K, 3)`` centre of the box's bottom face, x right, y down, z forward.
        rotation_y: ``(K,)`` radians about the camera's y axis.
        scores: ``(K,)``, NaN in label files.
    """

    classes: list[str]
    truncated: NDArray[np.float64]
    occluded: NDArray[np.float64]
    alpha: NDArray[np.float64]
    boxes2d: NDArray[np.float64]
    sizes: NDArray[np.float64]
    centers: NDArray[np.float64]
    rotation_y: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.classes)

    def select(self, keep: NDArray[np.bool_]) -> KittiLabels:
        """Rows where ``keep`` is True."""
        classes = [name for name, kept in zip(self.classes, keep) if kept]
        arrays = (self.truncated, self.occluded, self.alpha, self.boxes2d, self.sizes, self.centers, self.rotation_y, self.scores)
        return KittiLabels(classes, *(array[keep] for array in arrays))


def read_kitti_labels(path: Path) -> KittiLabels:
    """Read ``label_2/ID.txt`` (15 columns) or a result file (16 columns).

    Raises ValueError naming the line that has another number of columns or something that is not a number; OSError when unreadable.
    """
    classes, rows = [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) not in (15, 16):
            raise ValueError(f"label line {number}: expected 15 or 16 columns, got {len(words)}")
        try:
            row = [float(word) for word in words[1:]]
        except ValueError as bad:
            raise ValueError(f"label line {number}: {bad}") from bad
        if not np.isfinite(row).all():
            raise ValueError(f"label line {number}: NaN or Inf")
        classes.append(words[0])
        rows.append(row if len(row) == 15 else [*row, np.nan])
    table = np.array(rows, dtype=np.float64).reshape(-1, 15)
    return KittiLabels(classes, table[:, 0], table[:, 1], table[:, 2], table[:, 3:7], table[:, 7:10], table[:, 10:13], table[:, 13], table[:, 14])


def labels_to_boxes(labels: KittiLabels, calibration: KittiCalibration) -> NDArray[np.float32]:
    """``(K, 7)`` LiDAR boxes: the bottom centre is carried over by the calibration and raised by half the height, yaw = -rotation_y - pi/2.

    As everywhere in the field, the few tenths of a degree between the camera's and the LiDAR's vertical are left out of the yaw.
    """
    matrix = calibration.rect_to_lidar
    bottom = labels.centers @ matrix[:3, :3].T + matrix[:3, 3]
    height, width, length = labels.sizes.T
    center = bottom + np.stack([np.zeros_like(height), np.zeros_like(height), height / 2], axis=1)
    yaw = _wrap(-labels.rotation_y - np.pi / 2)
    return np.concatenate([center, np.stack([length, width, height, yaw], axis=1)], axis=1).astype(np.float32)


def boxes_to_labels(
    boxes: NDArray[np.floating],
    classes: Sequence[str],
    calibration: KittiCalibration,
    *,
    image_size: tuple[int, int],
    scores: NDArray[np.floating] | None = None,
) -> KittiLabels:
    """Rows of a result file for LiDAR boxes; inverse of :func:`labels_to_boxes`.

    ``boxes2d`` is the projection of the 3D box cut at the near plane and clipped to the image (all zeros behind the camera);
    alpha = rotation_y minus the bearing of the box centre from the LiDAR, which is how the official labels have it (to 0.01 rad; from
    the camera they would differ by up to 0.09); truncated and occluded are -1 (unknown), as results must have.

    Args:
        boxes: ``(K, 7 or more)``.
        classes: K names.
        image_size: (width, height) pixels.
        scores: ``(K,)`` or None (NaN).
    """
    boxes = np.asarray(boxes, dtype=np.float64)[:, :7]
    if len(classes) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        raise ValueError(
            f"expected one class and score a box, got {len(boxes)} boxes, {len(classes)} classes, {None if scores is None else len(scores)} scores"
        )
    bottom = boxes[:, :3].copy()
    bottom[:, 2] -= boxes[:, 5] / 2
    matrix = calibration.lidar_to_rect
    centers = bottom @ matrix[:3, :3].T + matrix[:3, 3]
    rotation_y = _wrap(-boxes[:, 6] - np.pi / 2)
    sizes = boxes[:, [5, 4, 3]]
    alpha = _wrap(rotation_y - np.arctan2(-boxes[:, 1], boxes[:, 0]))
    unknown = np.full(len(boxes), -1.0)
    boxes2d = project_boxes(sizes, centers, rotation_y, calibration, image_size)
    written = np.full(len(boxes), np.nan) if scores is None else np.asarray(scores, dtype=np.float64)
    return KittiLabels(list(classes), unknown, unknown.copy(), alpha, boxes2d, sizes, centers, rotation_y, written)


def project_boxes(
    sizes: NDArray[np.float64],
    centers: NDArray[np.float64],
    rotation_y: NDArray[np.float64],
    calibration: KittiCalibration,
    image_size: tuple[int, int],
) -> NDArray[np.float64]:
    """``(K, 4)`` image boxes (left, top, right, bottom) of camera-frame 3D boxes, clipped to the image; zeros where nothing is in front."""
    width, height = image_size
    out = np.zeros((len(sizes), 4))
    for row, corners in enumerate(camera_corners(sizes, centers, rotation_y)):
        visible = corners[corners[:, 2] >= _NEAR]
        start, end = corners[_EDGES[:, 0]], corners[_EDGES[:, 1]]
        crossing = (start[:, 2] < _NEAR) != (end[:, 2] < _NEAR)
        start, end = start[crossing], end[crossing]
        cut = start + (end - start) * ((_NEAR - start[:, 2]) / (end[:, 2] - start[:, 2]))[:, None]
        corners = np.concatenate([visible, cut])
        if len(corners):
            pixels, _ = calibration.project_rect(corners)
            low, high = pixels.min(axis=0), pixels.max(axis=0)
            out[row] = np.clip([*low, *high], 0, [width - 1, height - 1, width - 1, height - 1])
    return out


def camera_corners(sizes: NDArray[np.float64], centers: NDArray[np.float64], rotation_y: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(K, 8, 3)`` corners in rectified camera coordinates: the bottom face (y = 0) going round, then the top face."""
    height, width, length = (column[:, None] for column in np.asarray(sizes, dtype=np.float64).T)
    x = length / 2 * np.array([1, 1, -1, -1, 1, 1, -1, -1])
    y = -height * np.array([0, 0, 0, 0, 1, 1, 1, 1])
    z = width / 2 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    cos, sin = np.cos(rotation_y)[:, None], np.sin(rotation_y)[:, None]
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=2) + np.asarray(centers)[:, None]


def write_kitti_results(
    path: Path,
    boxes: NDArray[np.floating],
    classes: Sequence[str],
    scores: NDArray[np.floating],
    calibration: KittiCalibration,
    *,
    image_size: tuple[int, int] = (1242, 375),
) -> None:
    """Write one official result file (16 columns a row), an empty one for no boxes. Boxes without any pixel in the image are left out.

    The file is written under a temporary name and renamed. Arguments as in :func:`boxes_to_labels`.
    """
    labels = boxes_to_labels(boxes, classes, calibration, image_size=image_size, scores=scores)
    seen = (labels.boxes2d[:, 2] > labels.boxes2d[:, 0]) & (labels.boxes2d[:, 3] > labels.boxes2d[:, 1])
    labels = labels.select(seen)
    lines = []
    for row, name in enumerate(labels.classes):
        numbers = [labels.alpha[row], *labels.boxes2d[row], *labels.sizes[row], *labels.centers[row], labels.rotation_y[row]]
        lines.append(f"{name} -1 -1 " + " ".join(f"{value:.4f}" for value in numbers) + f" {labels.scores[row]:.6f}\n")
    write_text(path, "".join(lines))


def _wrap(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return (angle + np.pi) % (2 * np.pi) - np.pi
