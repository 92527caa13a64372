"""The same places in two augmented views of a scan: what joint-embedding methods compare on LiDAR.

A place is a cell of the encoder's map (a pillar, or the column behind a cell of the bird's-eye map, see :mod:`suite3d.pointcloud.methods.units`).
Of each cell that the first view occupies one point is drawn that both views kept; the cell of the second view that holds the same point is its
partner. One point a cell spreads the places evenly over space, where points themselves crowd near the sensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.masking import sub_generator
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, Voxels
from suite3d.pointcloud.methods.looking import Visuals, mask_scene
from suite3d.pointcloud.methods.prc import voxel_of_point
from suite3d.pointcloud.methods.units import unit_features, unit_shape, unit_size


@dataclass(kw_only=True)
class MatchedPlaces:
    """P places of a batch in both views.

    Attributes:
        first, second: ``(P, unit_dim)`` the encoder's features there.
        points: ``(P,)`` int64 rows of the first view's points that chose them.
        scan: ``(P,)`` int64.
    """

    first: Tensor
    second: Tensor
    points: Tensor
    scan: Tensor

    def features(self) -> Tensor:
        """``(2 P, unit_dim)``: the first view's, then the second one's."""
        return torch.cat((self.first, self.second))


def matched_places(encoder: LidarEncoder, batch: PairBatch, *, limit: int) -> MatchedPlaces:
    """At most ``limit`` places of each scan, drawn by its seed.

    Raises:
        ValueError: pairs without matched points.
    """
    if batch.first_rows is None or batch.second_rows is None:
        raise ValueError("expected two augmented views with matched points, got pairs without: use PairSource(mode='augment')")
    sides = [encoder.voxelize(view) for view in (batch.first, batch.second)]
    voxels = [
        voxel_of_point(side, len(view.xyz))[rows]
        for side, view, rows in zip(sides, (batch.first, batch.second), (batch.first_rows, batch.second_rows), strict=True)
    ]  # [K] of each view, -1 = out of range
    size = unit_size(encoder)
    scan = batch.first.batch_index()[batch.first_rows]
    usable = ((voxels[0] >= 0) & (voxels[1] >= 0)).nonzero()[:, 0]
    cell = unit_keys(sides[0], size)[voxels[0][usable]]
    chosen = []
    for index, seed in enumerate(batch.seeds):
        mine = scan[usable] == index
        chosen.append(usable[mine][one_per_cell(cell[mine], limit, sub_generator(seed, "matched places"))])
    rows = torch.cat(chosen)
    features = [
        unit_features(encoder, encoder.encode(side), side.coords[own[rows]] // side.coords.new_tensor((1, *size)))
        for side, own in zip(sides, voxels, strict=True)
    ]
    return MatchedPlaces(first=features[0], second=features[1], points=batch.first_rows[rows], scan=scan[rows])


def unit_keys(voxels: Voxels, size: tuple[int, int, int]) -> Tensor:
    """``(V,)`` int64 number of the cell that each voxel lies in, over the whole batch."""
    shape = unit_shape(voxels.grid, size)
    batch, z, y, x = (voxels.coords // voxels.coords.new_tensor((1, *size))).long().unbind(1)
    return ((batch * shape[0] + z) * shape[1] + y) * shape[2] + x


def one_per_cell(cell: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Rows of ``cell`` ``(K,)`` such that no two name the same cell, drawn at random, at most ``limit``, every cell equally likely."""
    order = torch.randperm(len(cell), generator=generator).to(cell.device)
    values, number = cell[order].unique(return_inverse=True)
    first = torch.full_like(values, len(cell)).scatter_reduce(0, number, torch.arange(len(cell), device=cell.device), "amin")
    cells = torch.randperm(len(values), generator=generator)[:limit].to(cell.device)
    return order[first[cells]]


def project_rows(head: nn.Module, rows: Tensor) -> Tensor:
    """Rows through a head; fewer than two have no statistics, so batch norms then use their running ones, as those of the LiDAR encoders do."""
    training = head.training
    head.train(training and len(rows) > 1)
    projected: Tensor = head(rows)
    head.train(training)
    return projected


def places_scene(encoder: LidarEncoder, batch: PairBatch, places: MatchedPlaces, *, title: str) -> Visuals:
    """Picture of the places of the first scan."""
    shown = batch.first.xyz[places.points[places.scan == 0]]
    cell = encoder.grid.voxel_size[0] * unit_size(encoder)[2]
    return mask_scene(batch.first, hidden=shown[:0], predicted=shown, cell=cell, title=title)
