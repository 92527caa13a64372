"""Plain torch kernel maps: which input voxel feeds which output voxel through which kernel offset.

A map is ``(K, V_out)`` int32: ``map[k, o]`` is the input row under kernel offset k of output o, -1 where there is none.
Offsets run z-major, x fastest: ``k = (kz * KY + ky) * KX + kx``.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

Triple = tuple[int, int, int]


def voxel_keys(coords: Tensor, spatial_shape: Triple) -> Tensor:
    """``(V, 4)`` [batch, z, y, x] -> ``(V,)`` int64, increasing in lexicographic order. Coordinates must lie inside the shape."""
    batch, z, y, x = coords.long().unbind(dim=1)
    return ((batch * spatial_shape[0] + z) * spatial_shape[1] + y) * spatial_shape[2] + x


def kernel_offsets(kernel: Triple) -> list[Triple]:
    """All (kz, ky, kx), x fastest."""
    return list(itertools.product(range(kernel[0]), range(kernel[1]), range(kernel[2])))


def find_rows(sorted_keys: Tensor, keys: Tensor) -> Tensor:
    """Row of each key in ``sorted_keys``, -1 where absent. int64."""
    if len(sorted_keys) == 0:
        return torch.full_like(keys, -1)
    position = torch.searchsorted(sorted_keys, keys).clamp(max=len(sorted_keys) - 1)
    return torch.where(sorted_keys[position] == keys, position, -1)


def submanifold_map(coords: Tensor, spatial_shape: Triple, kernel: Triple) -> Tensor:
    """Map of a submanifold convolution (outputs are the inputs, padding ``kernel // 2``): ``(K, V)`` int32."""
    keys = voxel_keys(coords, spatial_shape)
    shape = torch.tensor(spatial_shape, device=coords.device)
    columns = []
    for offset in kernel_offsets(kernel):
        shift = torch.tensor([offset[axis] - kernel[axis] // 2 for axis in range(3)], device=coords.device)
        position = coords[:, 1:].long() + shift
        inside = ((position >= 0) & (position < shape)).all(dim=1)
        query = voxel_keys(torch.cat([coords[:, :1].long(), position], dim=1), spatial_shape)
        columns.append(torch.where(inside, find_rows(keys, query), -1))
    return torch.stack(columns).int()


def strided_map(coords: Tensor, spatial_shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs and both directions of a strided convolution: an output is active where any input lies in its window.

    Returns:
        ``coords (U, 4)`` int32 sorted; ``forward (K, U)`` int32 input rows; ``backward (K, V)`` int32 output rows.
    """
    z, y, x = ((spatial_shape[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in range(3))
    out_shape = (z, y, x)
    steps, limits = torch.tensor(stride, device=coords.device), torch.tensor(out_shape, device=coords.device)
    keys = []
    for offset in kernel_offsets(kernel):
        shifted = coords[:, 1:].long() + torch.tensor([padding[a] - offset[a] for a in range(3)], device=coords.device)
        target = shifted.div(steps, rounding_mode="floor")
        valid = ((target * steps == shifted) & (target >= 0) & (target < limits)).all(dim=1)
        key = voxel_keys(torch.cat([coords[:, :1].long(), target], dim=1), out_shape)
        keys.append(torch.where(valid, key, -1))
    reached = torch.stack(keys)  # (K, V) key of the output that input v feeds through offset k
    out_keys = reached[reached >= 0].unique()
    backward = torch.where(reached >= 0, find_rows(out_keys, reached), -1)
    forward = torch.full((len(keys), len(out_keys)), -1, dtype=torch.int64, device=coords.device)
    offset_index, input_row = (backward >= 0).nonzero(as_tuple=True)
    forward[offset_index, backward[offset_index, input_row]] = input_row
    volume = out_shape[0] * out_shape[1] * out_shape[2]
    area = out_shape[1] * out_shape[2]
    out_coords = torch.stack(
        [out_keys // volume, out_keys // area % out_shape[0], out_keys // out_shape[2] % out_shape[1], out_keys % out_shape[2]], dim=1
    )
    return out_coords.int(), forward.int(), backward.int()
