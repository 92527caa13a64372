"""PRC: point-region contrast, the LiDAR stage of CALICO.

Sun et al., "CALICO: Self-Supervised Camera-LiDAR Contrastive Pre-training for BEV Perception", ICLR 2024 (section 3.1, figure 2).

    L = alpha PLRC + (1 - alpha) RAPC

Regions are clusters of the scan without its ground (DBSCAN, 0.75 m, at least 5 points); they come with the data. Of the points that two
augmented views of a scan share, N "semantic-rich" ones (in a region) and M "semantic-less" ones (in none) are drawn per scan.

- PLRC: a rich point attracts all rich points of its region in the other view and repels everything else.
- RAPC: every point finds itself in the other view; its region's other points are no negatives, and each region weighs the same.

No code was published. Where the text leaves it open we chose: N and M; negatives from the whole batch and all ranks; the region weight
1 / (sampled points of the region) in RAPC; sampling uniform over points. The feature of a point is what the encoder's levels say at its
voxel (``LidarFeatures.hypercolumn``), so every level is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.losses.info_nce import check_temperature
from suite3d.losses.region_info_nce import point_level_region_loss, region_aware_point_loss
from suite3d.masking import sub_generator
from suite3d.nn.heads import projector
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, Voxels
from suite3d.pointcloud.methods.looking import mask_scene, monitored


@dataclass(kw_only=True)
class PRCConfig:
    """PRC.

    Attributes:
        alpha: weight of PLRC against RAPC (paper: 0.5).
        rich_points, poor_points: N and M per scan.
        hidden, dim: widths of the projector.
        temperature: of both losses.
    """

    alpha: float = 0.5
    rich_points: int = 1024
    poor_points: int = 512
    hidden: int = 256
    dim: int = 128
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha expected in [0, 1], got {self.alpha}")
        if self.rich_points + self.poor_points < 2:
            raise ValueError(f"rich_points + poor_points expected at least 2, got {self.rich_points} + {self.poor_points}")
        check_temperature(self.temperature)


class PRC(nn.Module):
    """Point-region contrast around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`PRCConfig`.

    Raises:
        ValueError: in ``forward``, pairs without matched points or without regions.
    """

    needs: frozenset[str] = frozenset({"pairs"})

    def __init__(self, encoder: LidarEncoder, config: PRCConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PRCConfig()
        self.encoder = encoder
        self.projector = projector((sum(encoder.level_dims), config.hidden, config.dim))

    def forward(self, batch: PairBatch) -> Output:
        config = self.config
        if batch.first_rows is None or batch.second_rows is None or batch.regions is None:
            raise ValueError(
                "PRC expected two augmented views with matched points and regions, got pairs without: use PairSource(mode='augment', regions=...)"
            )
        first, second = self.encoder.voxelize(batch.first), self.encoder.voxelize(batch.second)
        first_voxel = voxel_of_point(first, len(batch.first.xyz))[batch.first_rows]  # [K], -1 = out of range
        second_voxel = voxel_of_point(second, len(batch.second.xyz))[batch.second_rows]
        scan = batch.first.batch_index()[batch.first_rows]
        chosen = self.choose((first_voxel >= 0) & (second_voxel >= 0), batch.regions, scan, batch.seeds)  # [P]

        features = self.encoder.encode(first)
        queries = self.project(features.hypercolumn(first.coords[first_voxel[chosen]]))  # [P, D]
        keys = self.project(self.encoder.encode(second).hypercolumn(second.coords[second_voxel[chosen]]))
        regions = batch.regions[chosen]
        plrc = point_level_region_loss(queries, keys, regions, temperature=config.temperature)
        rapc = region_aware_point_loss(queries, keys, regions, temperature=config.temperature)

        rich = regions >= 0
        shown = batch.first.xyz[batch.first_rows[chosen]]
        here = scan[chosen] == 0
        return Output(
            loss=config.alpha * plrc + (1 - config.alpha) * rapc,
            metrics={
                "plrc": plrc.detach(),
                "rapc": rapc.detach(),
                "rich_points": float(rich.sum()),
                "poor_points": float((~rich).sum()),
                "regions": float(len(regions[rich].unique())),
            },
            features=monitored(features, batch.seeds),
            visuals=mask_scene(
                batch.first,
                hidden=shown[here & ~rich],
                predicted=shown[here & rich],
                cell=0.2,
                title="PRC: points in regions (predicted), points in none (hidden)",
            ),
        )

    def project(self, rows: Tensor) -> Tensor:
        """Through the projector; a batch norm needs two rows, so fewer are projected twice over."""
        if self.training and len(rows) == 1:
            return self.projector(rows.expand(2, -1))[:1]
        return self.projector(rows)

    def choose(self, usable: Tensor, regions: Tensor, scan: Tensor, seeds: list[int]) -> Tensor:
        """``(P,)`` rows among the shared points: at most N rich and M poor ones of each scan, in range in both views."""
        chosen = []
        for index, seed in enumerate(seeds):
            mine = usable & (scan == index)
            for name, kind, limit in (("rich", regions >= 0, self.config.rich_points), ("poor", regions < 0, self.config.poor_points)):
                rows = (mine & kind).nonzero()[:, 0]
                order = torch.randperm(len(rows), generator=sub_generator(seed, f"prc/{name}"))[:limit]
                chosen.append(rows[order.to(rows.device)])
        return torch.cat(chosen)


def voxel_of_point(voxels: Voxels, points: int) -> Tensor:
    """``(points,)`` int64: row of each point's voxel, -1 for points out of range."""
    row = torch.full((points,), -1, dtype=torch.int64, device=voxels.coords.device)
    row[voxels.point_index] = voxels.point_voxel
    return row
