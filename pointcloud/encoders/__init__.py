"""LiDAR encoders."""

from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid, Voxels
from suite3d.pointcloud.encoders.build import build_encoder
from suite3d.pointcloud.encoders.config import LidarEncoderConfig
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.encoders.sst import SST, SSTConfig, window_cells
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x, VoxelResBackBone8x

__all__ = [
    "SST",
    "LidarEncoder",
    "LidarEncoderConfig",
    "LidarFeatures",
    "PillarEncoder",
    "SSTConfig",
    "VoxelBackBone8x",
    "VoxelGrid",
    "VoxelResBackBone8x",
    "Voxels",
    "build_encoder",
    "window_cells",
]
