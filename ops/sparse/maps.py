"""Kernel maps: which input voxel feeds which output voxel through which kernel offset.

A map is ``(K, V_out)`` int32: ``map[k, o]`` is the input row under kernel offset k of output o, -1 where there is none;
``k = (kz * KY + ky) * KX + kx``. The coordinates are sorted, so the maps are built by merging rows of voxels, without a hash table.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from suite3d.ops import library, reference
from suite3d.ops.checks import Triple, expect, expect_grid, expect_tensor


@dataclass(kw_only=True)
class KernelMap:
    """Both directions of a sparse convolution.

    Attributes:
        coords: ``(V_out, 4)`` int32 output voxels, sorted.
        spatial_shape: output cells along (z, y, x).
        forward: ``(K, V_out)`` int32 input row of each output under each offset, -1 for none.
        backward: ``(K, V_in)`` int32 output row of each input under each offset; for a mirrored map it is ``forward`` itself.
        mirrored: ``backward`` has to be read with the offsets in reverse (submanifold maps are symmetric).
        maps: kernel maps of the output voxels, shared by all tensors on them.
        plans: what the Triton kernels keep of a map, made when they first run on it (``implicit_gemm``).
    """

    coords: Tensor
    spatial_shape: Triple
    forward: Tensor
    backward: Tensor
    mirrored: bool
    maps: dict[Any, Any] = field(default_factory=dict, repr=False)
    plans: dict[str, list[Tensor]] = field(default_factory=dict, repr=False)

    def pairs(self) -> int:
        """Number of (input, output) pairs; reads it from the device."""
        return int((self.forward >= 0).sum())


def _fake_submanifold(coords: Tensor, batch_size: int, shape: list[int], kernel: list[int]) -> Tensor:
    return coords.new_empty(kernel[0] * kernel[1] * kernel[2], coords.shape[0])


def _fake_strided(
    coords: Tensor, batch_size: int, shape: list[int], kernel: list[int], stride: list[int], padding: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    outputs = torch.library.get_ctx().new_dynamic_size()
    volume = kernel[0] * kernel[1] * kernel[2]
    return coords.new_empty(outputs, 4), coords.new_empty(volume, outputs), coords.new_empty(volume, coords.shape[0])


library.define("submanifold_map(Tensor coords, SymInt batch_size, int[] shape, int[] kernel) -> Tensor", _fake_submanifold)
library.define(
    "strided_map(Tensor coords, SymInt batch_size, int[] shape, int[] kernel, int[] stride, int[] padding) -> (Tensor, Tensor, Tensor)", _fake_strided
)


def out_shape(spatial_shape: Triple, kernel: Triple, stride: Triple, padding: Triple) -> Triple:
    """Cells of a strided convolution's output: ``floor((in + 2 padding - kernel) / stride) + 1``. Raises ValueError where none is left."""
    shape = tuple((spatial_shape[a] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in range(3))
    expect(min(shape) >= 1, f"kernel {kernel} with padding {padding} does not fit into the grid {spatial_shape}: the output would be {shape}")
    return shape[0], shape[1], shape[2]


def check_coords(coords: Tensor, spatial_shape: Triple, batch_size: int) -> None:
    """ValueError unless the voxels are inside the grid and sorted, each once. Reads the values, so only where the CPU has them at hand."""
    if coords.device.type != "cpu" or torch.compiler.is_compiling() or len(coords) == 0:
        return
    limits = coords.new_tensor((batch_size, *spatial_shape))
    inside = ((coords >= 0) & (coords < limits)).all(dim=0).tolist()
    expect(all(inside), f"coords: expected [batch, z, y, x] below {(batch_size, *spatial_shape)} and not negative, got columns inside: {inside}")
    keys = reference.voxel_keys(coords, spatial_shape)
    expect(bool((keys[1:] > keys[:-1]).all()), "coords: expected sorted [batch, z, y, x], each once; use SparseTensor.from_unsorted")


def submanifold_map(coords: Tensor, *, spatial_shape: Triple, batch_size: int, kernel: Triple) -> KernelMap:
    """Map of a submanifold convolution: outputs are the inputs, padding is ``kernel // 2``.

    Args:
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted, each once. Checked on the CPU only (no device sync).
        spatial_shape: cells along (z, y, x).
        batch_size: B.
        kernel: odd sizes along (z, y, x).

    Raises:
        ValueError: unsorted, repeated or outside coordinates; even kernel sizes; a grid of 2^61 cells or more.
    """
    expect(all(size % 2 == 1 for size in kernel), f"kernel: a submanifold convolution needs odd sizes, got {kernel}")
    expect_grid(spatial_shape, batch_size, border=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2))
    expect_tensor(coords, "coords", (None, 4), (torch.int32,))
    compiled = library.kernel("submanifold_map", coords.device.type)
    explain = functools.partial(check_coords, coords, spatial_shape, batch_size)
    if compiled is None:
        explain()
        table = reference.submanifold_map(coords, spatial_shape, kernel)
    else:
        table = library.run(compiled, (coords, batch_size, list(spatial_shape), list(kernel)), explain)
    return KernelMap(coords=coords, spatial_shape=spatial_shape, forward=table, backward=table, mirrored=True)


def strided_map(coords: Tensor, *, spatial_shape: Triple, batch_size: int, kernel: Triple, stride: Triple, padding: Triple) -> KernelMap:
    """Map of a strided convolution: an output voxel exists where its window holds any input voxel.

    Args and errors as in :func:`submanifold_map`; ``stride`` and ``padding`` along (z, y, x).
    """
    expect_grid(spatial_shape, batch_size)
    shape = out_shape(spatial_shape, kernel, stride, padding)
    expect_grid(shape, batch_size, "output shape")
    expect_tensor(coords, "coords", (None, 4), (torch.int32,))
    compiled = library.kernel("strided_map", coords.device.type)
    explain = functools.partial(check_coords, coords, spatial_shape, batch_size)
    if compiled is None:
        explain()
        found = reference.strided_map(coords, spatial_shape, kernel, stride, padding)
    else:
        found = library.run(compiled, (coords, batch_size, list(spatial_shape), list(kernel), list(stride), list(padding)), explain)
    return KernelMap(coords=found[0], spatial_shape=shape, forward=found[1], backward=found[2], mirrored=False)
