"""Voxel-MAE: hide most voxels, encode the rest, reconstruct what was in the hidden ones.

Hess et al., "Masked Autoencoder for Self-Supervised Pre-training on Lidar Point Clouds", WACV Workshops 2023 (figure 2).

    L = w_o BCE(occupied?, hidden vs fake empty) + w_n smooth-L1(number of points) + w_c CD(10 predicted points, true points)

The seven slots: one view; random mask, 70 % of the occupied voxels; only visible voxels enter the encoder; the decoder attends in windows
over visible, hidden and fake empty voxels; targets are occupancy, point count, and points in [-1, 1] of the voxel (at most 100 of them,
count and Chamfer terms on hidden voxels only).

Differences to the paper:
- The mask hides a fixed number of voxels per scan instead of tossing a coin for each, so that the share is exact.
- What is hidden is a *mask unit* (``units.py``): one voxel for SST and pillars, as in the paper; the column of voxels under one cell of
  the bird's-eye map for the voxel backbones, which the paper does not treat.
- ``mask="block"`` hides regions instead of scattered voxels (UniPAD, CVPR 2024), whose content cannot be copied from next door.
- ``fake_reach`` can place the fake empties near occupied voxels. Uniform ones, the paper's and the default, are told apart mostly by
  being far from everything when the grid is large.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from suite3d.losses.chamfer import chamfer_loss
from suite3d.losses.occupancy import occupancy_loss
from suite3d.losses.smooth_l1 import smooth_l1_loss
from suite3d.masking import generators_of, hidden_count, random_mask, space_block_mask, sub_generator
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.pointcloud.methods.decoder import WindowDecoder, WindowDecoderConfig
from suite3d.pointcloud.methods.looking import Visuals, mask_scene, monitored
from suite3d.pointcloud.methods.units import MaskUnits, empty_units, group_units, limit_points, unit_size


@dataclass(kw_only=True)
class VoxelMAEConfig:
    """Voxel-MAE; the defaults are the paper's.

    Attributes:
        mask_ratio: share of the occupied units to hide.
        mask: ``random`` units, the paper's; ``block``: UniPAD's blocks of space with everything in them, of side ``block_size``.
        block_size: metres along x, y and z.
        fake_ratio: fake empty units per occupied unit.
        fake_reach: 0 = fakes anywhere in the grid; r = at most r units from an occupied one.
        predicted_points: points predicted per hidden unit.
        max_target_points: true points compared with, drawn at random from fuller units.
        occupied_weight, count_weight, chamfer_weight: of the three losses.
        decoder: the decoder.
    """

    mask_ratio: float = 0.7
    mask: Literal["random", "block"] = "random"
    block_size: tuple[float, float, float] = (4.0, 4.0, 4.0)
    fake_ratio: float = 0.1
    fake_reach: int = 0
    predicted_points: int = 10
    max_target_points: int = 100
    occupied_weight: float = 1.0
    count_weight: float = 1.0
    chamfer_weight: float = 1.0
    decoder: WindowDecoderConfig = field(default_factory=WindowDecoderConfig)

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if min(self.block_size) <= 0:
            raise ValueError(f"block_size expected three positive lengths in metres, got {self.block_size}")
        if self.fake_ratio < 0 or self.fake_reach < 0:
            raise ValueError(f"fake_ratio and fake_reach expected >= 0, got {self.fake_ratio} and {self.fake_reach}")


class VoxelMAE(nn.Module):
    """Voxel-MAE around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`VoxelMAEConfig`.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, encoder: LidarEncoder, config: VoxelMAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VoxelMAEConfig()
        self.encoder = encoder
        self.unit = unit_size(encoder)
        dim = self.config.decoder.dim
        self.decoder = WindowDecoder(encoder, self.config.decoder)
        self.occupied_head = nn.Linear(dim, 1)
        self.count_head = nn.Linear(dim, 1)
        self.point_head = nn.Linear(dim, 3 * self.config.predicted_points)

    def forward(self, batch: PointBatch) -> Output:
        config = self.config
        units = group_units(self.encoder.voxelize(batch), self.unit)
        hidden = self.draw_mask(units, batch.seeds)  # [U]
        fakes = empty_units(units, config.fake_ratio, config.fake_reach, generators_of(batch.seeds, "voxel_mae/fakes"))  # [F, 4]

        features = self.encoder.encode(units.visible_voxels(hidden))
        queries = torch.cat([units.coords[hidden], fakes])
        decoded = self.decoder(self.encoder, features, units.coords[~hidden], queries)  # [H+F, dim]
        real = torch.arange(len(queries), device=queries.device) < len(queries) - len(fakes)
        predicted = self.point_head(decoded[real]).unflatten(1, (-1, 3))  # [H, K, 3]

        rows, offsets = units.points_of(hidden)
        occupied = occupancy_loss(self.occupied_head(decoded)[:, 0], real)
        count = smooth_l1_loss(self.count_head(decoded[real])[:, 0], offsets.diff().float())
        target, target_offsets = self.targets(units, hidden, rows, offsets, batch.seeds)
        chamfer = chamfer_loss(predicted, target, target_offsets)
        loss = config.occupied_weight * occupied + config.count_weight * count + config.chamfer_weight * chamfer
        return Output(
            loss=loss,
            metrics={"occupied": occupied.detach(), "count": count.detach(), "chamfer": chamfer.detach(), "hidden_units": float(hidden.sum())},
            features=monitored(features, batch.seeds),
            visuals=self.picture(batch, units, hidden, predicted),
        )

    def draw_mask(self, units: MaskUnits, seeds: list[int]) -> Tensor:
        """``(U,)`` bool, True = hidden, the same share of every scan."""
        config, generators = self.config, generators_of(seeds, "voxel_mae/mask")
        if config.mask == "random":
            return random_mask(units.offsets(), config.mask_ratio, generators)
        return space_block_mask(units.centers(), units.offsets(), config.block_size, config.mask_ratio, generators)

    def targets(self, units: MaskUnits, hidden: Tensor, rows: Tensor, offsets: Tensor, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """Points of the hidden units in [-1, 1] of their unit, and where each unit starts."""
        rows, offsets = limit_points(rows, offsets, self.config.max_target_points, sub_generator(seeds[0], "voxel_mae/targets"))
        centers = units.centers(units.coords[hidden])
        centers = torch.repeat_interleave(centers, offsets.diff(), dim=0)
        return (units.voxels.xyz[rows] - centers) / units.half_size(), offsets

    def picture(self, batch: PointBatch, units: MaskUnits, hidden: Tensor, predicted: Tensor) -> Visuals:
        coords = units.coords[hidden]
        first = coords[:, 0] == 0
        centers = units.centers(coords[first])
        points = centers[:, None] + predicted[first].detach().float() * units.half_size()
        side = units.grid.voxel_size[0] * units.size[2]
        return mask_scene(
            batch, hidden=centers, predicted=points.reshape(-1, 3), cell=side, title="Voxel-MAE: hidden voxels and their reconstruction"
        )
