"""The slow, obviously right torch version of every op: definition, fallback and test oracle."""

from suite3d.ops.reference.kernel_map import find_rows, kernel_offsets, strided_map, submanifold_map, voxel_keys
from suite3d.ops.reference.scatter import scatter_max, scatter_mean, scatter_sum
from suite3d.ops.reference.sparse_conv import sparse_conv
from suite3d.ops.reference.voxelize import dynamic_voxelize, hard_voxelize

__all__ = [
    "dynamic_voxelize",
    "find_rows",
    "hard_voxelize",
    "kernel_offsets",
    "scatter_max",
    "scatter_mean",
    "scatter_sum",
    "sparse_conv",
    "strided_map",
    "submanifold_map",
    "voxel_keys",
]
