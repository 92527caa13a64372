"""Features on the occupied voxels of a batch of grids."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from suite3d.ops import reference
from suite3d.ops.checks import Triple, expect, expect_grid, expect_same_device, expect_tensor


@dataclass(kw_only=True, eq=False)
class SparseTensor:
    """Features on the occupied voxels of a batch of grids.

    Kernel maps are computed once for a set of coordinates and shared by every tensor made from this one with :meth:`replace`.

    Attributes:
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted lexicographically, each once (see :meth:`from_unsorted`).
        feats: ``(V, C)`` floating.
        spatial_shape: cells along (z, y, x).
        batch_size: B; grids without a voxel have no rows.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a spatial shape or batch size that is not positive, or 2^61 cells or more.
    """

    coords: Tensor
    feats: Tensor
    spatial_shape: Triple
    batch_size: int
    maps: dict[Any, Any] = field(default_factory=dict, repr=False)
    inverses: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        expect_tensor(self.coords, "coords", (None, 4), (torch.int32,))
        expect(
            self.feats.dim() == 2 and self.feats.shape[0] == self.coords.shape[0],
            f"feats: expected ({self.coords.shape[0]}, C), one row for each voxel, got {tuple(self.feats.shape)}",
        )
        expect(self.feats.is_floating_point(), f"feats: expected a floating dtype, got {self.feats.dtype}")
        expect_same_device(coords=self.coords, feats=self.feats)
        self.spatial_shape = (int(self.spatial_shape[0]), int(self.spatial_shape[1]), int(self.spatial_shape[2]))
        expect_grid(self.spatial_shape, self.batch_size)

    @classmethod
    def from_unsorted(cls, coords: Tensor, feats: Tensor, *, spatial_shape: Triple, batch_size: int) -> SparseTensor:
        """Sort the voxels first. Raises ValueError for coordinates outside the grid or given twice."""
        expect_tensor(coords, "coords", (None, 4), (torch.int32, torch.int64))
        expect_grid(spatial_shape, batch_size)
        limits = coords.new_tensor((batch_size, *spatial_shape))
        outside = int(((coords < 0) | (coords >= limits)).any(dim=1).sum())
        expect(outside == 0, f"coords: expected all inside batch, z, y, x = {(batch_size, *spatial_shape)}, got {outside} rows outside")
        keys, order = reference.voxel_keys(coords, spatial_shape).sort()
        twice = int((keys[1:] == keys[:-1]).sum())
        expect(twice == 0, f"coords: expected each voxel once, got {twice} repeated; pool them first (dynamic_voxelize, scatter_mean)")
        return cls(coords=coords[order].int(), feats=feats[order], spatial_shape=spatial_shape, batch_size=batch_size)

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def channels(self) -> int:
        return self.feats.shape[1]

    def replace(self, feats: Tensor) -> SparseTensor:
        """The same voxels with other features ``(V, C')``; kernel maps are shared."""
        return replace(self, feats=feats)

    def keys(self) -> Tensor:
        """``(V,)`` int64 increasing cell numbers."""
        if "keys" not in self.maps:
            self.maps["keys"] = reference.voxel_keys(self.coords, self.spatial_shape)
        return self.maps["keys"]

    def offsets(self) -> Tensor:
        """``(B + 1,)`` int64: voxels of grid b are rows ``offsets[b]:offsets[b + 1]``."""
        edges = torch.arange(self.batch_size + 1, device=self.coords.device, dtype=torch.int32)
        return torch.searchsorted(self.coords[:, 0].contiguous(), edges)

    def dense(self) -> Tensor:
        """``(B, C, Z, Y, X)``, zero where no voxel is. Differentiable."""
        z, y, x = self.spatial_shape
        cells = self.feats.new_zeros(self.batch_size * z * y * x, self.channels).index_copy(0, self.keys(), self.feats)
        return cells.view(self.batch_size, z, y, x, self.channels).permute(0, 4, 1, 2, 3)

    def bev(self) -> Tensor:
        """``(B, C * Z, Y, X)``: heights become channels, z fastest (HeightCompression of OpenPCDet). Differentiable."""
        z, y, x = self.spatial_shape
        return self.dense().reshape(self.batch_size, self.channels * z, y, x)

    def gather(self, coords: Tensor) -> Tensor:
        """Features at other coordinates: ``(M, 4)`` int [batch, z, y, x] -> ``(M, C)``, zeros where no voxel is. Differentiable."""
        expect_tensor(coords, "coords", (None, 4), (torch.int32, torch.int64))
        if len(self) == 0:
            return self.feats.new_zeros(len(coords), self.channels)
        limits = coords.new_tensor((self.batch_size, *self.spatial_shape))
        inside = ((coords >= 0) & (coords < limits)).all(dim=1)
        row = torch.where(inside, reference.find_rows(self.keys(), reference.voxel_keys(coords, self.spatial_shape)), -1)
        return self.feats[row.clamp(min=0)] * (row >= 0).unsqueeze(1)
