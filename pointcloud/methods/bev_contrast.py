"""BEVContrast: the same place in two sweeps of a drive, cell by cell on the bird's-eye map.

Sautier et al., "BEVContrast: Self-Supervision in BEV Space for Automotive Lidar Point Clouds", 3DV 2024 (figure 1).

    L = mean over cells c of -log( exp(z1_c.z2_c / t) / sum_c' exp(z1_c.z2_c' / t) ),   t = 0.07

z1 and z2 are the unit-length 256-d projections of the two sweeps' maps, averaged over cells of about 0.6 m, the second one resampled into
the first sweep's frame through the poses (augmentations included: any rotation about z, flip, scale, shift). Cells that hold points in both
sweeps, at most 4096 at random; one direction. Negatives are the other sampled cells, of the whole batch and of all ranks.

Differences to the paper: for encoders with a dense map (SECOND) a cell is the whole number of map cells nearest to 0.6 m; averages, and
the bilinear resampling, run over occupied cells only, so that empty neighbours do not dilute them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.losses.gather import sum_over_ranks
from suite3d.losses.info_nce import check_temperature, info_nce
from suite3d.masking import sub_generator
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, Voxels
from suite3d.pointcloud.methods.looking import mask_scene, sample_rows


@dataclass(kw_only=True)
class BEVContrastConfig:
    """BEVContrast; the defaults are the paper's.

    Attributes:
        dim: channels of the projection.
        cell_size: metres, side of a contrasted cell; rounded to whole cells of the encoder's map.
        max_cells: contrasted cells per batch and rank.
        temperature: t of the loss.
        min_overlap: share of the four bilinear neighbours, by weight, that must hold points.
    """

    dim: int = 256
    cell_size: float = 0.6
    max_cells: int = 4096
    temperature: float = 0.07
    min_overlap: float = 0.5

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
        if self.max_cells < 2:
            raise ValueError(f"max_cells expected at least 2, since the others are the negatives, got {self.max_cells}")


class BEVContrast(nn.Module):
    """BEVContrast around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`BEVContrastConfig`.
    """

    needs: frozenset[str] = frozenset({"pairs", "poses", "sequences"})

    def __init__(self, encoder: LidarEncoder, config: BEVContrastConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or BEVContrastConfig()
        self.encoder = encoder
        side = encoder.grid.voxel_size[0] * encoder.bev_stride
        self.pool = max(1, round(config.cell_size / side))
        self.projector = nn.Conv2d(encoder.bev_dim, config.dim, 1)

    def forward(self, batch: PairBatch) -> Output:
        config = self.config
        first, first_weight, bev = self.cells(batch.first)  # [B, D, H, W], [B, 1, H, W]
        second, second_weight, _ = self.cells(batch.second)
        warp = self.sampling_grid(batch.second_to_first, first.shape)
        second, second_weight = resample(second, second_weight, warp)
        shared = (first_weight[:, 0] > 0) & (second_weight[:, 0] >= config.min_overlap)  # [B, H, W]
        chosen = self.choose(shared, batch.seeds)  # [K, 3]
        scan, y, x = chosen.unbind(1)
        count = sum_over_ranks(torch.tensor(len(chosen), device=first.device))
        queries, keys = first[scan, :, y, x], second[scan, :, y, x]  # [K, D]
        if int(count) < 2:
            loss = (queries.sum() + keys.sum() + first.sum()).float() * 0.0
        else:
            loss = info_nce(queries, keys, temperature=config.temperature)
        with torch.no_grad():
            similarity = F.cosine_similarity(queries.float(), keys.float(), dim=1)
        metrics = {"cells": float(len(chosen)), "shared_cells": float(shared.sum()), "positive_similarity": similarity.mean() if len(chosen) else 0.0}
        occupied = first_weight[0, 0] > 0
        return Output(
            loss=loss,
            metrics=metrics,
            features=sample_rows(bev, batch.seeds),
            visuals=mask_scene(
                batch.first,
                hidden=self.centers((occupied & ~shared[0]).nonzero()),
                predicted=self.centers(chosen[scan == 0, 1:]),
                cell=self.encoder.grid.voxel_size[0] * self.encoder.bev_stride * self.pool,
                title="BEVContrast: contrasted cells (predicted), cells without a partner (hidden)",
            ),
        )

    def cells(self, points: object) -> tuple[Tensor, Tensor, Tensor]:
        """Projected map averaged over the occupied map cells of each cell ``(B, D, H, W)``, its weight (share of them occupied), and
        the encoder's features at all occupied map cells ``(K, C)``."""
        voxels = self.encoder.voxelize(points)  # type: ignore[arg-type]
        bev = self.encoder.encode(voxels).bev  # [B, C, H', W']
        occupied = self.occupied(voxels, bev)  # [B, 1, H', W']
        projected = self.projector(bev).float() * occupied
        weight = F.avg_pool2d(occupied, self.pool, ceil_mode=True)
        total = F.avg_pool2d(projected, self.pool, ceil_mode=True)
        return total / weight.clamp(min=1e-6), weight, bev.movedim(1, -1)[occupied[:, 0] > 0]

    def occupied(self, voxels: Voxels, bev: Tensor) -> Tensor:
        """``(B, 1, H', W')`` float: 1 where a map cell holds a voxel."""
        scan, _, y, x = voxels.coords.long().unbind(1)
        stride = self.encoder.bev_stride
        occupied = bev.new_zeros(bev.shape[0], 1, *bev.shape[2:], dtype=torch.float32)
        occupied[scan, 0, (y // stride).clamp(max=bev.shape[2] - 1), (x // stride).clamp(max=bev.shape[3] - 1)] = 1.0
        return occupied

    def centers(self, cells: Tensor) -> Tensor:
        """``(K, 2)`` rows and columns of cells -> ``(K, 3)`` metres of their centres, z = 0."""
        grid, scale = self.encoder.grid, self.encoder.bev_stride * self.pool
        x = (cells[:, 1].double() + 0.5) * grid.voxel_size[0] * scale + grid.point_range[0]
        y = (cells[:, 0].double() + 0.5) * grid.voxel_size[1] * scale + grid.point_range[1]
        return torch.stack([x, y, torch.zeros_like(x)], dim=1)

    def sampling_grid(self, second_to_first: Tensor, shape: torch.Size) -> Tensor:
        """``(B, H, W, 2)`` float32: for each cell of the first map where it lies in the second, in grid_sample's units.

        Height 0 is carried over, which is exact for motion in the plane and off by centimetres for the tilt of a road.
        """
        _, _, height, width = shape
        device = second_to_first.device
        rows = torch.stack(torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"), dim=-1)
        places = self.centers(rows.reshape(-1, 2))  # [H*W, 3]
        inverse = torch.linalg.inv(second_to_first.double())  # [B, 4, 4]
        moved = places @ inverse[:, :3, :3].transpose(1, 2) + inverse[:, None, :3, 3]  # [B, H*W, 3]
        grid, scale = self.encoder.grid, self.encoder.bev_stride * self.pool
        extent = moved.new_tensor([grid.voxel_size[0] * scale * width, grid.voxel_size[1] * scale * height])
        start = moved.new_tensor(grid.point_range[:2])
        return (2 * (moved[..., :2] - start) / extent - 1).float().unflatten(1, (height, width))

    def choose(self, shared: Tensor, seeds: list[int]) -> Tensor:
        """``(K, 3)`` [scan, row, column]: at most an equal share of ``max_cells`` shared cells of each scan, at random."""
        quota = max(1, self.config.max_cells // len(seeds))
        chosen = []
        for scan, seed in enumerate(seeds):
            cells = shared[scan].nonzero()
            order = torch.randperm(len(cells), generator=sub_generator(seed, "bev_contrast/cells"))[:quota]
            cells = cells[order.to(cells.device)]
            chosen.append(torch.cat([torch.full_like(cells[:, :1], scan), cells], dim=1))
        return torch.cat(chosen)


def resample(values: Tensor, weight: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear resampling that averages over occupied neighbours only.

    Args:
        values: ``(B, D, H, W)``.
        weight: ``(B, 1, H, W)``; neighbours with weight 0 do not count.
        grid: ``(B, H, W, 2)`` as for ``grid_sample`` (``align_corners=False``).

    Returns:
        Resampled values and, in [0, 1], which share of the neighbours (by bilinear weight) was occupied.
    """
    occupied = (weight > 0).float()
    total = F.grid_sample(values * occupied, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    share = F.grid_sample(occupied, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return total / share.clamp(min=1e-6), share
