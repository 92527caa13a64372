"""Sparse tensors and convolutions on them."""

from suite3d.ops.sparse.backend import set_backend
from suite3d.ops.sparse.conv import sparse_conv
from suite3d.ops.sparse.maps import KernelMap, out_shape, strided_map, submanifold_map
from suite3d.ops.sparse.modules import SparseConv3d, SparseInverseConv3d, SparseModule, SparseSequential, SubMConv3d
from suite3d.ops.sparse.tensor import SparseTensor

__all__ = [
    "KernelMap",
    "SparseConv3d",
    "SparseInverseConv3d",
    "SparseModule",
    "SparseSequential",
    "SparseTensor",
    "SubMConv3d",
    "out_shape",
    "set_backend",
    "sparse_conv",
    "strided_map",
    "submanifold_map",
]
