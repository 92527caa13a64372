"""What every LiDAR encoder is: points -> voxels -> features that live on voxels, at one or more strides.

Three stages with their seams open, because masked methods work at the seams:

    voxels    = encoder.voxelize(batch)             # which points fall in which voxel, no gradient
    decorated = encoder.decorate(voxels)            # (P, F) per-point input features
    pooled    = encoder.pool(decorated, voxels)     # (V, C) one feature a voxel
    features  = encoder.backbone(voxels.sparse(pooled))

``encoder(batch)`` runs all of them; ``encoder.encode(voxels)`` the last three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from suite3d.ops import SparseTensor, dynamic_voxelize, scatter_mean
from suite3d.pointcloud.data.batch import PointBatch


@dataclass(frozen=True, kw_only=True)
class VoxelGrid:
    """Regular grid over a box of space.

    Attributes:
        point_range: (x0, y0, z0, x1, y1, z1) metres.
        voxel_size: (dx, dy, dz) metres; the range must hold a whole number of voxels on each axis.
    """

    point_range: tuple[float, float, float, float, float, float]
    voxel_size: tuple[float, float, float]

    def __post_init__(self) -> None:
        for axis, name in enumerate("xyz"):
            extent = self.point_range[axis + 3] - self.point_range[axis]
            cells = extent / self.voxel_size[axis]
            if extent <= 0 or abs(cells - round(cells)) > 1e-3:
                raise ValueError(
                    f"point_range along {name} is {extent:g} m: expected a whole number of voxels of {self.voxel_size[axis]:g} m, got {cells:g}"
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along (z, y, x)."""
        cells = [round((self.point_range[a + 3] - self.point_range[a]) / self.voxel_size[a]) for a in range(3)]
        return cells[2], cells[1], cells[0]

    def centers(self, coords: Tensor, stride: int | tuple[int, int, int] = 1) -> Tensor:
        """``(V, 4)`` [batch, z, y, x] -> ``(V, 3)`` xyz metres of the cell centres, float32.

        ``stride``: input voxels per cell, one number or (sz, sy, sx) as in :class:`LidarFeatures`.
        """
        steps = (stride,) * 3 if isinstance(stride, int) else stride
        size = coords.new_tensor([size * step for size, step in zip(self.voxel_size, steps[::-1], strict=True)], dtype=torch.float32)
        start = coords.new_tensor(self.point_range[:3], dtype=torch.float32)
        return (coords[:, [3, 2, 1]].float() + 0.5) * size + start


@dataclass(kw_only=True)
class Voxels:
    """The points of a batch grouped into occupied voxels.

    Attributes:
        coords: ``(V, 4)`` int32 [batch, z, y, x], sorted lexicographically.
        xyz: ``(P, 3)`` the points in range, grouped by voxel, original order inside a voxel.
        feats: ``(P, C)`` their channels, in the encoder's channel order.
        point_voxel: ``(P,)`` int64 row of ``coords`` of each point (non-decreasing).
        point_index: ``(P,)`` int64 row of each point in the batch.
        counts: ``(V,)`` int64 points per voxel.
        grid: the grid.
        batch_size: B; scans without a point in range have no rows.
    """

    coords: Tensor
    xyz: Tensor
    feats: Tensor
    point_voxel: Tensor
    point_index: Tensor
    counts: Tensor
    grid: VoxelGrid
    batch_size: int

    def __len__(self) -> int:
        return len(self.coords)

    def centers(self) -> Tensor:
        return self.grid.centers(self.coords)

    def offsets(self) -> Tensor:
        """``(B + 1,)`` int64: voxels of scan b are rows ``offsets[b]:offsets[b + 1]``."""
        edges = torch.arange(self.batch_size + 1, device=self.coords.device, dtype=torch.int32)
        return torch.searchsorted(self.coords[:, 0].contiguous(), edges)

    def mean(self, values: Tensor) -> Tensor:
        """``(P, F)`` per-point values -> ``(V, F)`` mean over the points of each voxel."""
        return scatter_mean(values, self.point_voxel, len(self))

    def select(self, keep: Tensor) -> Voxels:
        """The voxels where ``keep`` ``(V,)`` bool holds, with their points."""
        points = keep[self.point_voxel]
        row = keep.cumsum(0) - 1
        return replace(
            self,
            coords=self.coords[keep],
            xyz=self.xyz[points],
            feats=self.feats[points],
            point_voxel=row[self.point_voxel[points]],
            point_index=self.point_index[points],
            counts=self.counts[keep],
        )

    def sparse(self, features: Tensor) -> SparseTensor:
        return SparseTensor(coords=self.coords, feats=features, spatial_shape=self.grid.shape, batch_size=self.batch_size)


class LidarFeatures:
    """Where an encoder's features live.

    Args:
        levels: sparse features, finest first; ``levels[i]`` has stride ``strides[i]`` input voxels along (z, y, x).
        strides: per level (sz, sy, sx).
        bev: ``(B, C, H, W)`` dense map for the detection neck, H along y and W along x; or a function that makes it. Methods that
            stay on the voxels never ask for the map, and then it is never computed.
    """

    def __init__(self, *, levels: list[SparseTensor], strides: list[tuple[int, int, int]], bev: Tensor | Callable[[], Tensor]) -> None:
        self.levels = levels
        self.strides = strides
        self._bev = bev

    @cached_property
    def bev(self) -> Tensor:
        """``(B, C, H, W)``, made at first use."""
        return self._bev if isinstance(self._bev, Tensor) else self._bev()

    def hypercolumn(self, coords: Tensor) -> Tensor:
        """Features of all levels at the given finest-level voxels, concatenated: ``(V, 4)`` -> ``(V, sum C)``.

        A voxel whose parent cell is not active at a level (possible for voxels hidden from the encoder) reads zeros there.
        Along an axis convolved without padding, the last voxels have no cell of their own and belong to the last one.
        """
        columns = []
        for level, stride in zip(self.levels, self.strides, strict=True):
            cells = [(coords[:, axis + 1] // stride[axis]).clamp(max=level.spatial_shape[axis] - 1) for axis in range(3)]
            parent = torch.stack([coords[:, 0], *cells], dim=1)
            columns.append(level.gather(parent))
        return torch.cat(columns, dim=1)


class LidarEncoder(nn.Module, ABC):
    """Base of the LiDAR encoders.

    Attributes:
        grid: voxel grid.
        channels: point channels the stem reads after xyz.
        embed_dim: channels of the finest-level features after :meth:`pool`.
        level_dims: channels of each entry of ``LidarFeatures.levels``.
        bev_dim, bev_stride: channels and stride (in voxels) of ``LidarFeatures.bev``.
        decorated_dim: columns of :meth:`decorate`.
        input_columns: their names: x y z, the channels, then what the encoder derives.
        absolute_columns: columns of :meth:`decorate` that hold absolute xyz (what MV-JAR hides).
        stem: key in ``state_dict()`` of the weight whose last axis runs over ``input_columns``.
    """

    grid: VoxelGrid
    channels: tuple[str, ...]
    embed_dim: int
    level_dims: tuple[int, ...]
    bev_dim: int
    bev_stride: int
    decorated_dim: int
    input_columns: tuple[str, ...]
    stem: str
    absolute_columns: tuple[int, int, int] = (0, 1, 2)

    @torch.no_grad()
    def voxelize(self, batch: PointBatch) -> Voxels:
        """Group the points in range into voxels. Scans with no point in range simply have no rows."""
        coords, point_voxel, order = dynamic_voxelize(batch.xyz, batch.offsets, self.grid.point_range, self.grid.voxel_size)
        feats = batch.select_channels(self.channels)[order]
        counts = torch.bincount(point_voxel, minlength=len(coords))
        return Voxels(
            coords=coords,
            xyz=batch.xyz[order],
            feats=feats,
            point_voxel=point_voxel,
            point_index=order,
            counts=counts,
            grid=self.grid,
            batch_size=batch.batch_size,
        )

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that another model can take its weights."""
        return {
            "class": type(self).__name__,
            "input_columns": list(self.input_columns),
            "point_range": list(self.grid.point_range),
            "voxel_size": list(self.grid.voxel_size),
        }

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh from ``generator`` (torch's default one if None)."""

    @abstractmethod
    def decorate(self, voxels: Voxels) -> Tensor:
        """``(P, decorated_dim)`` input features of each point."""

    @abstractmethod
    def pool(self, decorated: Tensor, voxels: Voxels) -> Tensor:
        """``(P, decorated_dim)`` -> ``(V, embed_dim)``."""

    @abstractmethod
    def backbone(self, voxels: SparseTensor) -> LidarFeatures:
        """Features at every level from the pooled voxel features."""

    def encode(self, voxels: Voxels) -> LidarFeatures:
        return self.backbone(voxels.sparse(self.pool(self.decorate(voxels), voxels)))

    def forward(self, batch: PointBatch) -> LidarFeatures:
        return self.encode(self.voxelize(batch))
