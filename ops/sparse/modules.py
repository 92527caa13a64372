"""Sparse convolution layers. Weights are ``(out, kz, ky, kx, in)``: spconv >= 2.2 and OpenPCDet files load without a permute."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from suite3d.ops.checks import expect, triple
from suite3d.ops.sparse.conv import sparse_conv
from suite3d.ops.sparse.maps import KernelMap, strided_map, submanifold_map
from suite3d.ops.sparse.tensor import SparseTensor

Size = int | Sequence[int]


class SparseModule(nn.Module):
    """A module that takes and returns a :class:`SparseTensor`; :class:`SparseSequential` hands other modules the features alone."""


class _SparseConv(SparseModule):
    def __init__(self, cin: int, cout: int, kernel_size: Size, *, bias: bool, indice_key: str | None) -> None:
        super().__init__()
        expect(cin >= 1 and cout >= 1, f"channels: expected at least 1 in and 1 out, got {cin} and {cout}")
        self.kernel_size = triple(kernel_size, "kernel_size", minimum=1)
        self.indice_key = indice_key
        self.weight = nn.Parameter(torch.empty(cout, *self.kernel_size, cin))
        self.bias = nn.Parameter(torch.empty(cout)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform with bound 1 / sqrt(fan in) for weight and bias, as ``torch.nn.Conv3d``."""
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def _check_input(self, x: SparseTensor) -> None:
        expect(x.channels == self.weight.shape[4], f"{type(self).__name__}: expected {self.weight.shape[4]} input channels, got {x.channels}")

    def extra_repr(self) -> str:
        key = "" if self.indice_key is None else f", indice_key={self.indice_key!r}"
        return f"{self.weight.shape[4]}, {self.weight.shape[0]}, kernel_size={self.kernel_size}, bias={self.bias is not None}{key}"


class SubMConv3d(_SparseConv):
    """Submanifold convolution (Graham, Engelcke and van der Maaten 2018): outputs exist exactly where inputs do, padding ``kernel // 2``.

    Layers on the same voxels with the same kernel share one kernel map whatever their ``indice_key``; the key is kept for the reader.

    Args:
        cin, cout: channels.
        kernel_size: odd int or (z, y, x).
        bias: learn a bias.
        indice_key: name of the voxel set, as in spconv.
    """

    def __init__(self, cin: int, cout: int, kernel_size: Size, *, bias: bool = True, indice_key: str | None = None) -> None:
        super().__init__(cin, cout, kernel_size, bias=bias, indice_key=indice_key)
        expect(all(k % 2 == 1 for k in self.kernel_size), f"kernel_size: a submanifold convolution needs odd sizes, got {self.kernel_size}")

    def forward(self, x: SparseTensor) -> SparseTensor:
        self._check_input(x)
        key = ("submanifold", self.kernel_size)
        if key not in x.maps:
            x.maps[key] = submanifold_map(x.coords, spatial_shape=x.spatial_shape, batch_size=x.batch_size, kernel=self.kernel_size)
        return x.replace(sparse_conv(x.feats, self.weight, self.bias, x.maps[key]))


class SparseConv3d(_SparseConv):
    """Strided convolution: an output exists where any input falls into its window (spconv's SparseConv3d).

    The output grid has ``floor((in + 2 padding - kernel) / stride) + 1`` cells.

    Args:
        cin, cout: channels.
        kernel_size, stride, padding: int or (z, y, x).
        bias: learn a bias.
        indice_key: name under which a :class:`SparseInverseConv3d` finds the way back.
    """

    def __init__(
        self, cin: int, cout: int, kernel_size: Size, *, stride: Size = 1, padding: Size = 0, bias: bool = True, indice_key: str | None = None
    ) -> None:
        super().__init__(cin, cout, kernel_size, bias=bias, indice_key=indice_key)
        self.stride = triple(stride, "stride", minimum=1)
        self.padding = triple(padding, "padding", minimum=0)

    def forward(self, x: SparseTensor) -> SparseTensor:
        self._check_input(x)
        key = ("strided", self.kernel_size, self.stride, self.padding)
        if key not in x.maps:
            x.maps[key] = strided_map(
                x.coords, spatial_shape=x.spatial_shape, batch_size=x.batch_size, kernel=self.kernel_size, stride=self.stride, padding=self.padding
            )
        kernel_map: KernelMap = x.maps[key]
        inverses = x.inverses if self.indice_key is None else {**x.inverses, self.indice_key: (x.replace(x.feats[:, :0]), kernel_map)}
        return SparseTensor(
            coords=kernel_map.coords,
            feats=sparse_conv(x.feats, self.weight, self.bias, kernel_map),
            spatial_shape=kernel_map.spatial_shape,
            batch_size=x.batch_size,
            maps=kernel_map.maps,
            inverses=inverses,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, stride={self.stride}, padding={self.padding}"


class SparseInverseConv3d(_SparseConv):
    """Way back of a :class:`SparseConv3d`: its map reversed, so the voxels that it started from are restored.

    Args:
        cin, cout: channels.
        kernel_size: that of the strided convolution.
        indice_key: that of the strided convolution.
        bias: learn a bias.
    """

    def __init__(self, cin: int, cout: int, kernel_size: Size, *, indice_key: str, bias: bool = True) -> None:
        super().__init__(cin, cout, kernel_size, bias=bias, indice_key=indice_key)

    def forward(self, x: SparseTensor) -> SparseTensor:
        self._check_input(x)
        expect(
            self.indice_key in x.inverses,
            f"indice_key: expected one of the strided convolutions that led to this tensor, {sorted(x.inverses)}, got {self.indice_key!r}",
        )
        source, kernel_map = x.inverses[str(self.indice_key)]
        expect(
            kernel_map.coords is x.coords or len(kernel_map.coords) == len(x),
            f"indice_key {self.indice_key!r} leads to {len(kernel_map.coords)} voxels, this tensor has {len(x)}",
        )
        return source.replace(sparse_conv(x.feats, self.weight, self.bias, kernel_map, transposed=True))


class SparseSequential(nn.Sequential, SparseModule):
    """``nn.Sequential`` in which modules that are not a :class:`SparseModule` (BatchNorm1d, ReLU, Linear, ...) act on the features.

    A batch norm that gets fewer than two voxels in training uses its running statistics, instead of failing.
    """

    def forward(self, x: SparseTensor) -> SparseTensor:
        for module in self:
            x = module(x) if isinstance(module, SparseModule) else x.replace(_on_feats(module, x.feats))
        return x


def _on_feats(module: nn.Module, feats: Tensor) -> Tensor:
    if isinstance(module, nn.BatchNorm1d) and module.training and feats.shape[0] < 2 and module.running_mean is not None:
        return functional.batch_norm(feats, module.running_mean, module.running_var, module.weight, module.bias, training=False, eps=module.eps)
    return module(feats)
