"""What the masked methods hide: units of space, each a block of voxels that is shown or hidden as a whole.

For encoders that stay at pillar resolution (SST, pillars) a unit is one voxel, as in the papers. The voxel backbones have 5 cm voxels
that hold one or two points: a single such voxel is neither a puzzle piece nor worth reconstructing, and its neighbours give it away.
There a unit is the column of voxels behind one cell of the bird's-eye map (40 cm for KITTI), which is the papers' pillar again and the
resolution that detection heads read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid, Voxels


@dataclass(kw_only=True)
class MaskUnits:
    """The occupied units of a batch.

    Attributes:
        coords: ``(U, 4)`` int32 [batch, z, y, x] in units, sorted lexicographically.
        voxel_unit: ``(V,)`` int64 unit of each voxel.
        voxels: the voxels they group.
        size: voxels per unit along (z, y, x).
    """

    coords: Tensor
    voxel_unit: Tensor
    voxels: Voxels
    size: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def grid(self) -> VoxelGrid:
        return self.voxels.grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """Units along (z, y, x)."""
        return unit_shape(self.grid, self.size)

    @property
    def point_unit(self) -> Tensor:
        """``(P,)`` int64 unit of each point."""
        return self.voxel_unit[self.voxels.point_voxel]

    def offsets(self) -> Tensor:
        """``(B + 1,)`` int64: units of scan b are rows ``offsets[b]:offsets[b + 1]``."""
        edges = torch.arange(self.voxels.batch_size + 1, device=self.coords.device, dtype=torch.int32)
        return torch.searchsorted(self.coords[:, 0].contiguous(), edges)

    def centers(self, coords: Tensor | None = None) -> Tensor:
        """``(U, 3)`` metres; of the occupied units, or of any ``(K, 4)`` unit coordinates."""
        return self.grid.centers(self.coords if coords is None else coords, self.size)

    def half_size(self) -> Tensor:
        """``(3,)`` metres along xyz from a unit's centre to its faces."""
        size = [cell * steps / 2 for cell, steps in zip(self.grid.voxel_size, self.size[::-1], strict=True)]
        return torch.tensor(size, device=self.coords.device)

    def visible_voxels(self, hidden: Tensor) -> Voxels:
        """The voxels (with their points) of the units where ``hidden`` ``(U,)`` bool does not hold."""
        return self.voxels.select(~hidden[self.voxel_unit])

    def points_of(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the points in the chosen units, unit by unit and in the order of the scan, and where each unit starts.

        Args:
            chosen: ``(U,)`` bool.

        Returns:
            ``(M,)`` int64 rows of ``voxels.xyz``; ``(K + 1,)`` int64 offsets for the K chosen units.
        """
        unit = self.point_unit
        rows = chosen[unit].nonzero()[:, 0]
        rows = rows[torch.argsort(self.voxels.point_index[rows])]
        rows = rows[torch.argsort(unit[rows], stable=True)]
        counts = torch.bincount(unit[rows], minlength=len(self))[chosen]
        return rows, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def unit_size(encoder: LidarEncoder) -> tuple[int, int, int]:
    """Voxels per unit along (z, y, x): one voxel for encoders that keep the resolution, else the column behind a map cell."""
    return (1, 1, 1) if encoder.bev_stride == 1 else (encoder.grid.shape[0], encoder.bev_stride, encoder.bev_stride)


def unit_shape(grid: VoxelGrid, size: tuple[int, int, int]) -> tuple[int, int, int]:
    """Units along (z, y, x), the last ones possibly cut by the edge of the grid."""
    z, y, x = (-(-cells // side) for cells, side in zip(grid.shape, size, strict=True))
    return z, y, x


def group_units(voxels: Voxels, size: tuple[int, int, int]) -> MaskUnits:
    """The occupied units of some voxels."""
    if size == (1, 1, 1):
        rows = torch.arange(len(voxels), device=voxels.coords.device)
        return MaskUnits(coords=voxels.coords, voxel_unit=rows, voxels=voxels, size=size)
    coords, voxel_unit = distinct_cells(voxels.coords // voxels.coords.new_tensor((1, *size)), unit_shape(voxels.grid, size))
    return MaskUnits(coords=coords, voxel_unit=voxel_unit, voxels=voxels, size=size)


def distinct_cells(coords: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """``(N, 4)`` [batch, z, y, x] inside ``shape`` -> each cell once, ``(K, 4)`` sorted; and ``(N,)`` int64 which of them each row is."""
    batch, z, y, x = coords.long().unbind(1)
    keys, row = torch.unique(((batch * shape[0] + z) * shape[1] + y) * shape[2] + x, return_inverse=True)
    columns = [keys // (shape[0] * shape[1] * shape[2]), keys // (shape[1] * shape[2]) % shape[0], keys // shape[2] % shape[1], keys % shape[2]]
    return torch.stack(columns, dim=1).to(coords.dtype), row


def unit_dim(encoder: LidarEncoder) -> int:
    """Columns of :func:`unit_features`."""
    return sum(encoder.level_dims) if encoder.bev_stride == 1 else encoder.bev_dim


def unit_features(encoder: LidarEncoder, features: LidarFeatures, coords: Tensor) -> Tensor:
    """``(K, 4)`` unit coordinates -> ``(K, unit_dim)`` what the encoder says there; zeros where it has no active cell."""
    if encoder.bev_stride == 1:
        return features.hypercolumn(coords)
    bev = features.bev
    batch, _, y, x = coords.long().unbind(1)
    return bev[batch, :, y.clamp(max=bev.shape[2] - 1), x.clamp(max=bev.shape[3] - 1)]


def limit_points(rows: Tensor, offsets: Tensor, limit: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most ``limit`` points of every set, drawn at random; sets that are small enough stay as they are.

    Args:
        rows: ``(M,)`` members, set by set.
        offsets: ``(K + 1,)`` int64.
        generator: on the CPU.

    Returns:
        The kept members and their ``(K + 1,)`` offsets.
    """
    counts = offsets.diff()
    if len(counts) == 0 or int(counts.max()) <= limit:
        return rows, offsets
    owner = torch.repeat_interleave(torch.arange(len(counts), device=rows.device), counts)
    key = torch.rand(len(rows), generator=generator, dtype=torch.float64).to(rows.device)
    order = torch.argsort(owner + key)
    rank = torch.arange(len(rows), device=rows.device) - offsets[owner[order]]
    kept = order[rank < limit].sort().values
    limited = counts.clamp(max=limit)
    return rows[kept], torch.cat([limited.new_zeros(1), limited.cumsum(0)])


def empty_units(units: MaskUnits, ratio: float, reach: int, generators: list[torch.Generator]) -> Tensor:
    """Fake units: places with no point. ``ratio`` times as many in each scan as it has occupied units.

    Args:
        ratio: fakes per occupied unit, >= 0; the number is rounded half up and cut to the empty units there are.
        reach: 0 draws from the whole grid; r > 0 draws near occupied units, at most r units away along each axis.
        generators: one per scan, on the CPU.

    Returns:
        ``(F, 4)`` int32 unit coordinates, distinct, sorted.
    """
    shape = units.shape
    extent = torch.tensor(shape)
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1])
    coords = units.coords.cpu().long()
    fakes = []
    for scan, generator in enumerate(generators):
        own = coords[coords[:, 0] == scan, 1:]
        taken = own @ strides
        wanted = min(int(ratio * len(own) + 0.5), int(extent.prod()) - len(own))
        found = torch.empty(0, dtype=torch.int64)
        for _ in range(20):
            if len(found) >= wanted:
                break
            number = 2 * wanted + 16
            if reach:
                drawn = own[torch.randint(len(own), (number,), generator=generator)]
                drawn = drawn + torch.randint(-reach, reach + 1, (number, 3), generator=generator)
            else:
                drawn = (torch.rand(number, 3, generator=generator) * extent).long()
            drawn = drawn[((drawn >= 0) & (drawn < extent)).all(dim=1)]
            found = _append_new(found, drawn @ strides, taken)
        found = found[:wanted].sort().values
        cells = torch.stack([torch.full_like(found, scan), *(found // stride % side for stride, side in zip(strides, extent, strict=True))], dim=1)
        fakes.append(cells.int())
    return torch.cat(fakes).to(units.coords.device)


def _append_new(found: Tensor, drawn: Tensor, taken: Tensor) -> Tensor:
    """``found`` followed by what of ``drawn`` is neither in it nor in ``taken``, in the order drawn, each once."""
    joined = torch.cat([found, drawn[~torch.isin(drawn, taken)]])
    values, inverse = joined.unique(return_inverse=True)
    first = torch.full_like(values, len(joined)).scatter_reduce(0, inverse, torch.arange(len(joined)), "amin")
    return joined[first.sort().values]


def collapse(units: MaskUnits, chosen: Tensor, generators: list[torch.Generator]) -> tuple[Voxels, Tensor]:
    """Only one point, drawn at random, of every chosen unit; all points of the others.

    Args:
        chosen: ``(U,)`` bool.
        generators: one per scan, on the CPU.

    Returns:
        The voxels that still hold a point; and ``(V',)`` int64 which unit each of them lies in.
    """
    rows, offsets = units.points_of(chosen)
    counts = offsets.diff()
    scan = units.coords[chosen, 0].cpu()
    draws = torch.cat([torch.rand(int((scan == b).sum()), generator=generator) for b, generator in enumerate(generators)])
    pick = torch.minimum((draws.to(counts.device) * counts).long(), counts - 1)
    keep = ~chosen[units.point_unit]
    keep[rows[offsets[:-1] + pick]] = True
    voxels = units.voxels
    counts = torch.bincount(voxels.point_voxel[keep], minlength=len(voxels))
    held = counts > 0
    row = held.cumsum(0) - 1
    shown = replace(
        voxels,
        coords=voxels.coords[held],
        xyz=voxels.xyz[keep],
        feats=voxels.feats[keep],
        point_voxel=row[voxels.point_voxel[keep]],
        point_index=voxels.point_index[keep],
        counts=counts[held],
    )
    return shown, units.voxel_unit[held]
