"""From a configuration to an encoder."""

from __future__ import annotations

import torch

from suite3d.pointcloud.encoders.base import LidarEncoder, VoxelGrid
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.encoders.sst import SST
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x, VoxelResBackBone8x


def build_encoder(config: LidarEncoderConfig, *, generator: torch.Generator | None = None) -> LidarEncoder:
    """Encoder with freshly drawn weights (from ``generator``, or torch's default one).

    Raises:
        ValueError: a grid the architecture cannot take, or an unknown kind.
    """
    grid = VoxelGrid(point_range=config.point_range, voxel_size=config.voxel_size)
    if config.kind == "voxel_backbone_8x":
        return VoxelBackBone8x(grid, channels=config.channels, width=config.width, max_points=config.max_points, generator=generator)
    if config.kind == "voxel_res_backbone_8x":
        return VoxelResBackBone8x(grid, channels=config.channels, width=config.width, max_points=config.max_points, generator=generator)
    if config.kind == "pillar":
        return PillarEncoder(grid, channels=config.channels, dims=config.pillar_dims, generator=generator)
    if config.kind == "sst":
        return SST(grid, channels=config.channels, config=config.sst, generator=generator)
    raise ValueError(f"encoder.kind expected voxel_backbone_8x, voxel_res_backbone_8x, pillar or sst, got '{config.kind}'")
