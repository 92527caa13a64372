"""Which encoder, on which grid, from which channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from suite3d.pointcloud.encoders.sst import SSTConfig


@dataclass(kw_only=True)
class LidarEncoderConfig:
    """A LiDAR encoder; the defaults are SECOND on KITTI.

    Attributes:
        kind: architecture.
        point_range: (x0, y0, z0, x1, y1, z1) metres.
        voxel_size: (dx, dy, dz) metres; one cell along z for ``pillar``, at least 24 for the voxel backbones.
        channels: point channels beside xyz.
        width: voxel backbones: multiplies every channel count, 1 = published.
        max_points: voxel backbones: average only the first so many points of a voxel, as published detectors do; 0 = all.
        pillar_dims: pillar: output channels of the point layers.
        sst: sizes of SST.
    """

    kind: Literal["voxel_backbone_8x", "voxel_res_backbone_8x", "pillar", "sst"] = "voxel_backbone_8x"
    point_range: tuple[float, float, float, float, float, float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0)
    voxel_size: tuple[float, float, float] = (0.05, 0.05, 0.1)
    channels: tuple[str, ...] = ("intensity",)
    width: float = 1.0
    max_points: int = 0
    pillar_dims: tuple[int, ...] = (64,)
    sst: SSTConfig = field(default_factory=SSTConfig)
