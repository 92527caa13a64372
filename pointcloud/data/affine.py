"""Moving a frame: one similarity transform applied to everything in it that has a place or a direction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from suite3d.pointcloud.data.frame import Frame


def transform_frame(frame: Frame, matrix: NDArray[np.float64]) -> Frame:
    """Frame seen through ``x -> A x``: points, normals, flow, boxes (sizes, yaw, velocities) and pose stay consistent.

    The pose becomes ``pose @ inv(A)``, so it still takes the (moved) points to the world. ``meta["augmentation"]`` accumulates the
    transforms: (4, 4) float64 from the recorded frame to this one; ``meta`` entries about the recorded frame (calibration) stay as they are.
    A reflection mirrors the heading of a box (flip along y: yaw -> -yaw).

    Args:
        matrix: ``(4, 4)`` similarity that keeps the z axis: any rotation about z, reflections, one positive scale, translation.

    Raises:
        ValueError: another matrix.
    """
    linear, scale = _check(matrix)
    small = linear.astype(np.float32)
    xyz = frame.xyz @ small.T
    xyz += matrix[:3, 3].astype(np.float32)
    meta = dict(frame.meta)
    meta["augmentation"] = matrix @ meta.get("augmentation", np.eye(4))
    return replace(
        frame,
        xyz=xyz,
        feats=_rotate_normals(frame, small / np.float32(scale)),
        pose=None if frame.pose is None else frame.pose @ np.linalg.inv(matrix),
        boxes=None if frame.boxes is None else transform_boxes(frame.boxes, matrix),
        flow=None if frame.flow is None else frame.flow @ small.T,
        meta=meta,
    )


def transform_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """``(M, 7 | 9)`` boxes under a similarity that keeps the z axis; see :func:`transform_frame`."""
    linear, scale = _check(matrix)
    old = boxes.astype(np.float64)
    new = old.copy()
    new[:, :3] = old[:, :3] @ linear.T + matrix[:3, 3]
    new[:, 3:6] *= scale
    heading = np.stack([np.cos(old[:, 6]), np.sin(old[:, 6])], axis=1) @ linear[:2, :2].T
    new[:, 6] = np.arctan2(heading[:, 1], heading[:, 0])
    if boxes.shape[1] == 9:
        new[:, 7:9] = old[:, 7:9] @ linear[:2, :2].T
    return new.astype(np.float32)


def _check(matrix: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    linear = matrix[:3, :3]
    scale = float(linear[2, 2])
    upright = np.allclose(linear[2, :2], 0) and np.allclose(linear[:2, 2], 0) and scale > 0
    if matrix.shape != (4, 4) or not upright or not np.allclose(linear @ linear.T, scale**2 * np.eye(3), atol=1e-6 * scale**2):
        raise ValueError(f"expected a 4x4 similarity that keeps the z axis, got\n{matrix}")
    return linear, scale


def _rotate_normals(frame: Frame, rotation: NDArray[np.float32]) -> NDArray[np.float32]:
    if not {"nx", "ny", "nz"} <= set(frame.channels):
        return frame.feats
    columns = [frame.channels.index(name) for name in ("nx", "ny", "nz")]
    feats = frame.feats.copy()
    feats[:, columns] = feats[:, columns] @ rotation.T
    return feats
