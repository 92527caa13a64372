"""Rigid transforms and the text files that hold trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def read_poses(path: Path) -> NDArray[np.float64]:
    """``(F, 4, 4)`` transforms from a text file with the 12 numbers of a 3x4 matrix a row (KITTI odometry).

    Rows of 13 numbers start with the frame number, which must count 0, 1, 2, ...
    Raises ValueError naming the file when rows have another length, hold NaN, or a rotation is not one to 1e-2.
    """
    try:
        rows = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as bad:
        raise ValueError(f"{path}: expected 12 numbers a row (3x4 pose): {bad}") from bad
    if rows.shape[1] == 13 and np.array_equal(rows[:, 0], np.arange(len(rows))):
        rows = rows[:, 1:]
    if rows.shape[1] != 12:
        raise ValueError(f"{path}: expected 12 numbers a row (3x4 pose), got {rows.shape[1]}")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3] = rows.reshape(-1, 3, 4)
    rotation = poses[:, :3, :3]
    if not np.isfinite(poses).all() or np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max(initial=0) > 1e-2:
        raise ValueError(f"{path}: a row is not a rigid transform")
    return poses


def quaternion_matrix(quaternion: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
    """``(..., 4)`` quaternions (w, x, y, z) -> ``(..., 3, 3)`` rotation matrices; quaternions are normalised first."""
    q = np.asarray(quaternion, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def rigid(rotation: NDArray[np.float64], translation: NDArray[np.float64] | list[float]) -> NDArray[np.float64]:
    """``(4, 4)`` transform from a 3x3 rotation and a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation
    matrix[:3, 3] = translation
    return matrix
