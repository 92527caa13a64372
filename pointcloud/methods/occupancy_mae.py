"""Occupancy-MAE: hide voxels by range, predict which cells of space are occupied.

Min et al., "Occupancy-MAE: Self-supervised Pre-training Large-scale LiDAR Point Clouds with Masked Occupancy Autoencoders", TIV 2023
(figure 2).

    L = mean over all cells of the target grid of BCE(predicted occupancy, whether the full scan has a point there)

The seven slots: one view; range-aware random mask (near voxels, which are dense, are hidden more than far ones); only visible voxels enter
the encoder; dense 3D deconvolutions decode its bird's-eye map; the target is the occupancy of the whole scan; loss as above.

This is the algorithm the paper describes, with distances in metres from the sensor. (The released code compares its thresholds with voxel
indices counted from the corner of the grid and duplicates rows while shuffling.)

Differences to the paper:
- The target grid is ``target_stride`` voxels coarse, so that a dense grid fits in memory; 1 is the paper's voxel resolution.
- The deconvolutions have kernel = stride = 2. Cells then do not overlap, and the dense volume is decoded and scored in strips of rows that
  are recomputed in the backward pass: memory is bounded by ``strip_cells``, whatever the grid.
- Pillar encoders predict ``pillar_layers`` heights above each cell, since a single layer would only repeat the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.occupancy import occupancy_sum
from suite3d.masking import check_bands, generators_of, range_mask
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, Voxels
from suite3d.pointcloud.methods.looking import Visuals, mask_scene, monitored
from suite3d.pointcloud.methods.units import distinct_cells


@dataclass(kw_only=True)
class OccupancyMAEConfig:
    """Occupancy-MAE.

    Attributes:
        band_edges: metres from the sensor (horizontally) where the mask ratio changes.
        band_ratios: share of voxels hidden in each band, one more than edges.
        target_stride: input voxels per target cell along each axis, a power of two, at most the stride of the encoder's map.
        pillar_layers: target cells along z for encoders with a single layer of voxels.
        width: channels of the decoder at the map's resolution; halved at each doubling, at least 8.
        positive_weight: weight of occupied cells in the BCE; 1 is the paper's plain BCE.
        strip_cells: target cells decoded at a time.
    """

    band_edges: tuple[float, ...] = (30.0, 50.0)
    band_ratios: tuple[float, ...] = (0.9, 0.7, 0.5)
    target_stride: int = 4
    pillar_layers: int = 8
    width: int = 32
    positive_weight: float = 1.0
    strip_cells: int = 1 << 20

    def __post_init__(self) -> None:
        check_bands(self.band_edges, self.band_ratios)


class OccupancyDecoder(nn.Module):
    """Bird's-eye map -> occupancy logits, finer by 2 along every axis at each step.

    ``stem`` mixes neighbouring cells of the map; ``lift`` gives each cell its column of volume cells; ``rise`` are the deconvolutions: with
    kernel = stride = 2 each is one linear map from a cell to its 2 x 2 x 2 children. Lift and rise treat every cell of the map by itself,
    so they may run strip by strip.

    Args:
        cin: channels of the map.
        steps: doublings.
        layers: target cells along z.
        width: channels at the map's resolution.
    """

    def __init__(self, cin: int, *, steps: int, layers: int, width: int) -> None:
        super().__init__()
        self.steps = steps
        self.layers = layers
        self.low_layers = -(-layers // 2**steps)
        widths = [max(width >> step, 8) for step in range(steps + 1)]
        self.stem = nn.Sequential(nn.Conv2d(cin, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.lift = nn.Linear(width, self.low_layers * widths[0])
        self.rise = nn.ModuleList(nn.Linear(before, 8 * after) for before, after in zip(widths[:-1], widths[1:], strict=True))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in widths)
        self.head = nn.Linear(widths[-1], 1)

    def volume(self, mixed: Tensor) -> Tensor:
        """``(B, width, H, W)`` rows of the stem's output -> ``(B, layers, H * 2^steps, W * 2^steps)`` logits."""
        cells = self.lift(rearrange(mixed, "b c h w -> b h w c")).unflatten(3, (self.low_layers, -1))  # [B, H, W, Z, C]
        cells = self.norms[0](cells).relu()
        for linear, norm in zip(self.rise, self.norms[1:], strict=True):
            cells = norm(linear(cells).unflatten(-1, (8, -1))).relu()  # [B, H, W, Z, 8, .., 8, C]
        logits: Tensor = self.head(cells)[..., 0]
        for _ in range(self.steps):  # outermost children first
            logits = rearrange(logits, "b h w z (dz dy dx) ... -> b (h dy) (w dx) (z dz) ...", dz=2, dy=2, dx=2)
        return rearrange(logits, "b h w z -> b z h w")[:, : self.layers]


class OccupancyMAE(nn.Module):
    """Occupancy-MAE around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`OccupancyMAEConfig`.

    Raises:
        ValueError: a target stride that the encoder's map cannot be refined to.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, encoder: LidarEncoder, config: OccupancyMAEConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or OccupancyMAEConfig()
        self.encoder = encoder
        self.stride = min(config.target_stride, encoder.bev_stride)
        steps = math.log2(encoder.bev_stride / self.stride) if self.stride > 0 else -1.0
        if steps < 0 or steps != int(steps):
            raise ValueError(
                f"target_stride expected a power of two up to {encoder.bev_stride}, the stride of the encoder's map, got {config.target_stride}"
            )
        z, y, x = encoder.grid.shape
        layers = config.pillar_layers if z == 1 else -(-z // self.stride)
        self.shape = (layers, -(-y // self.stride), -(-x // self.stride))
        self.decoder = OccupancyDecoder(encoder.bev_dim, steps=int(steps), layers=layers, width=config.width)

    def forward(self, batch: PointBatch) -> Output:
        config = self.config
        voxels = self.encoder.voxelize(batch)
        centers = voxels.centers()
        distance = centers[:, :2].norm(dim=1)
        generators = generators_of(batch.seeds, "occupancy_mae/mask")
        hidden = range_mask(distance, voxels.offsets(), config.band_edges, config.band_ratios, generators)  # [V]
        features = self.encoder.encode(voxels.select(~hidden))
        target = self.occupied_cells(voxels)
        mixed = self.decoder.stem(features.bev)  # [B, width, H, W]
        loss, accuracy = self.dense_loss(mixed, target)
        first = hidden & (voxels.coords[:, 0] == 0)
        return Output(
            loss=loss,
            metrics={
                **accuracy,
                "hidden_share": float(hidden.float().mean()),
                "occupied_share": len(target) / (voxels.batch_size * math.prod(self.shape)),
            },
            features=monitored(features, batch.seeds),
            visuals=self.picture(batch, centers[first], mixed),
        )

    def occupied_cells(self, voxels: Voxels) -> Tensor:
        """``(T, 4)`` int64 [batch, z, y, x]: the cells of the target grid in which the full scan has a point, each once."""
        coords = voxels.coords.long()
        cells = coords // coords.new_tensor([1, self.stride, self.stride, self.stride])
        if voxels.grid.shape[0] == 1:
            bottom, top = voxels.grid.point_range[2], voxels.grid.point_range[5]
            layer = ((voxels.xyz[:, 2] - bottom) / (top - bottom) * self.shape[0]).long().clamp(0, self.shape[0] - 1)
            cells = cells[voxels.point_voxel]
            cells[:, 1] = layer
        return distinct_cells(cells, self.shape)[0]

    def dense_loss(self, mixed: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """BCE over the whole target grid, strip by strip; and how many of the occupied cells, and of those called occupied, are right."""
        totals: list[Tensor] = []
        for low, high in self.strips(mixed):
            arguments = (mixed[:, :, low:high], self.strip_target(mixed, target, low, high))
            totals.append(checkpoint(self.strip_sums, *arguments, use_reentrant=False) if torch.is_grad_enabled() else self.strip_sums(*arguments))
        sums = torch.stack(totals).sum(0)
        loss = mean_over_ranks(sums[0], mixed.shape[0] * math.prod(self.shape))
        hits, called, occupied = sums.detach()[1:4]
        return loss, {"recall": hits / occupied.clamp(min=1), "precision": hits / called.clamp(min=1)}

    def strips(self, mixed: Tensor) -> list[tuple[int, int]]:
        """Ranges of rows of the map that decode to at most ``strip_cells`` cells (one row at least) and together to all."""
        rows = mixed.shape[2]
        row_cells = mixed.shape[0] * self.shape[0] * mixed.shape[3] * 4**self.decoder.steps
        step = max(1, self.config.strip_cells // row_cells)
        return [(low, min(low + step, rows)) for low in range(0, rows, step)]

    def strip_target(self, mixed: Tensor, target: Tensor, low: int, high: int) -> Tensor:
        """``(B, Z, rows, X)`` bool: occupied cells behind rows ``low:high`` of the map."""
        scale = 2**self.decoder.steps
        inside = target[(target[:, 2] >= low * scale) & (target[:, 2] < high * scale)]
        occupied = torch.zeros(mixed.shape[0], self.shape[0], (high - low) * scale, self.shape[2], dtype=torch.bool, device=mixed.device)
        occupied[inside[:, 0], inside[:, 1], inside[:, 2] - low * scale, inside[:, 3]] = True
        return occupied[:, :, : self.shape[1] - low * scale]

    def strip_sums(self, mixed: Tensor, occupied: Tensor) -> Tensor:
        """``(4,)``: summed BCE; cells rightly called occupied; called occupied; occupied."""
        logits = self.decoder.volume(mixed).float()[:, :, : occupied.shape[2], : occupied.shape[3]]
        loss = occupancy_sum(logits, occupied, positive_weight=self.config.positive_weight)
        called = logits > 0
        return torch.stack([loss, (called & occupied).sum().float(), called.sum().float(), occupied.sum().float()])

    def picture(self, batch: PointBatch, hidden: Tensor, mixed: Tensor) -> Visuals:
        mixed = mixed[:1].detach()
        voxel = self.encoder.grid.voxel_size

        @torch.no_grad()
        def occupied_centers() -> Tensor:
            scale, start = 2**self.decoder.steps, mixed.new_tensor(self.encoder.grid.point_range[:3])
            height = self.encoder.grid.point_range[5] - self.encoder.grid.point_range[2]
            thickness = height / self.shape[0] if self.encoder.grid.shape[0] == 1 else voxel[2] * self.stride
            size = mixed.new_tensor([voxel[0] * self.stride, voxel[1] * self.stride, thickness])
            found = []
            for low, high in self.strips(mixed):
                cells = (self.decoder.volume(mixed[:, :, low:high])[0] > 0).nonzero()
                cells[:, 1] += low * scale
                found.append(cells)
            return (torch.cat(found)[:, [2, 1, 0]].float() + 0.5) * size + start

        return mask_scene(
            batch, hidden=hidden, predicted=occupied_centers, cell=voxel[0], title="Occupancy-MAE: hidden voxels and predicted occupancy"
        )
