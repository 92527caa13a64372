"""KITTI calibration: from the LiDAR through the rectified camera to the left colour image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_KEYS = {
    "P2": ("P2",),
    "R0_rect": ("R0_rect", "R_rect", "R_rect_00"),
    "Tr_velo_to_cam": ("Tr_velo_to_cam", "Tr_velo_cam", "Tr_velo_to_cam0"),
}
_SIZES = {"P2": 12, "R0_rect": 9, "Tr_velo_to_cam": 12}


@dataclass(frozen=True)
class KittiCalibration:
    """One ``calib/ID.txt`` (object and tracking spelling).

    Attributes:
        P2: ``(3, 4)`` projection of rectified camera coordinates to image 2.
        R0: ``(3, 3)`` rectifying rotation.
        Tr: ``(3, 4)`` LiDAR to the unrectified reference camera.
    """

    P2: NDArray[np.float64]
    R0: NDArray[np.float64]
    Tr: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path) -> KittiCalibration:
        """Parse a calibration file. Raises ValueError naming the missing or damaged entry, OSError when unreadable."""
        entries: dict[str, list[str]] = {}
        for line in path.read_text(errors="replace").splitlines():
            words = line.replace(":", " ", 1).split()
            if words:
                entries[words[0]] = words[1:]
        values = {}
        for name, spellings in _KEYS.items():
            found = next((entries[spelling] for spelling in spellings if spelling in entries), None)
            if found is None:
                raise ValueError(f"calibration lacks {name}")
            try:
                numbers = np.array([float(word) for word in found])
            except ValueError as bad:
                raise ValueError(f"calibration entry {name} is not a list of numbers") from bad
            if len(numbers) != _SIZES[name] or not np.isfinite(numbers).all():
                raise ValueError(f"calibration entry {name}: expected {_SIZES[name]} finite numbers, got {len(numbers)}")
            values[name] = numbers.reshape(3, -1)
        return cls(values["P2"], values["R0_rect"], values["Tr_velo_to_cam"])

    @property
    def lidar_to_rect(self) -> NDArray[np.float64]:
        """``(4, 4)`` LiDAR to rectified camera coordinates (x right, y down, z forward)."""
        rectify, extrinsic = np.eye(4), np.eye(4)
        rectify[:3, :3] = self.R0
        extrinsic[:3] = self.Tr
        return rectify @ extrinsic

    @property
    def rect_to_lidar(self) -> NDArray[np.float64]:
        return np.linalg.inv(self.lidar_to_rect).astype(np.float64)

    @property
    def lidar_to_image(self) -> NDArray[np.float64]:
        """``(3, 4)`` LiDAR to homogeneous pixels."""
        return self.P2 @ self.lidar_to_rect

    def project_rect(self, rect: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``(N, 3)`` rectified camera points -> ``(N, 2)`` pixels and ``(N,)`` depth along the optical axis of camera 2."""
        homogeneous = rect @ self.P2[:, :3].T + self.P2[:, 3]
        return homogeneous[:, :2] / homogeneous[:, 2:], homogeneous[:, 2]

    def in_view(self, xyz: NDArray[np.float32], image_size: tuple[int, int]) -> NDArray[np.bool_]:
        """``(N,)`` bool: LiDAR points in front of the camera whose pixel lies in the image.

        Args:
            xyz: ``(N, 3)`` LiDAR points.
            image_size: (width, height) pixels.
        """
        width, height = image_size
        matrix = self.lidar_to_image.astype(np.float32)
        u, v, depth = matrix[:, :3] @ xyz.T + matrix[:, 3:]  # each [N]
        # compare products with the depth instead of dividing by it: no division by zero, same answer for depth > 0
        return (depth > 0) & (u >= 0) & (u < width * depth) & (v >= 0) & (v < height * depth)


def png_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header of a PNG file. Raises ValueError when it is not one, OSError when unreadable."""
    with path.open("rb") as file:
        head = file.read(24)
    if len(head) < 24 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
