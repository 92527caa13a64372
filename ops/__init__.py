"""Compiled ops and the sparse tensor. Every op has a plain torch reference that runs where nothing is compiled."""

from suite3d.ops.library import compiled, load_errors, use_reference
from suite3d.ops.scatter import scatter_max, scatter_mean, scatter_sum
from suite3d.ops.sparse import (
    KernelMap,
    SparseConv3d,
    SparseInverseConv3d,
    SparseModule,
    SparseSequential,
    SparseTensor,
    SubMConv3d,
    sparse_conv,
    strided_map,
    submanifold_map,
)
from suite3d.ops.voxelize import dynamic_voxelize, grid_cells, hard_voxelize

__all__ = [
    "KernelMap",
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseModule",
    "SparseSequential",
    "SparseTensor",
    "SubMConv3d",
    "compiled",
    "dynamic_voxelize",
    "grid_cells",
    "hard_voxelize",
    "load_errors",
    "scatter_max",
    "scatter_mean",
    "scatter_sum",
    "sparse_conv",
    "strided_map",
    "submanifold_map",
    "use_reference",
]
