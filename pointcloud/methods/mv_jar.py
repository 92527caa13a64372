"""MV-JAR: masked voxel jigsaw and reconstruction.

Xu et al., "MV-JAR: Masked Voxel Jigsaw and Reconstruction for LiDAR-Based Self-Supervised Pre-Training", CVPR 2023 (figure 2).

    L = alpha L_J + beta L_R
    L_J = mean over jigsaw voxels of CE(scores over the cells of its window, the cell it came from)
    L_R = mean over reconstruction voxels of CD_L2(15 predicted points, its points), both relative to its centre, in metres

The seven slots: one view; reversed furthest voxel sampling hides 15 % (furthest point sampling on voxel centres picks the ones that are
kept), 10 % as jigsaw and 5 % as reconstruction, disjoint; all voxels enter the encoder, the hidden ones altered as below; one linear layer
for each task decodes; targets are cells of a 12 x 12 x 1 window, and points; losses as above.

- Jigsaw: the three absolute coordinates of every point are one learned vector; what is relative to the voxel stays.
- Reconstruction: one point stays, the others are one learned vector m_p in the space of the encoder's input columns.

Differences to the paper, each so that the answer is not already in the input:

- The jigsaw pieces of a window change places at random (among the cells that held them). With the coordinates hidden but the voxel still
  in its cell, SST's position code, or the sparse grid of a convolution, states the answer.
- The point that stays is decorated as if it were alone (offset to the mean of the voxel: zero); the true mean tells of the hidden points.
- m_p enters once, instead of once for every hidden point, and also in voxels of one point. Under SST's maximum over points copies change
  nothing but the statistics of the normalisation; under a mean they would tell how many points were hidden and drown the one that stays.
- "Voxel" above is a *mask unit* (``units.py``): one voxel for SST and pillars, as in the paper. For the voxel backbones it is the column of
  voxels under one cell of the bird's-eye map: of a reconstruction unit only the voxel of the point that stays is occupied, a jigsaw unit
  moves with all its voxels. These encoders feed absolute coordinates only, so a jigsaw piece keeps its shape in the sparse grid and its
  channels. An encoder without context between pillars (``PillarEncoder`` alone) can only guess the cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.losses.chamfer import chamfer_loss
from suite3d.losses.gather import mean_over_ranks
from suite3d.masking import Generators, farthest_kept_mask, generators_of, hidden_count, split_hidden
from suite3d.ops import SparseTensor
from suite3d.output import Output
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, Voxels
from suite3d.pointcloud.encoders.window import window_cells
from suite3d.pointcloud.methods.looking import Visuals, mask_scene, monitored
from suite3d.pointcloud.methods.units import MaskUnits, collapse, group_units, unit_dim, unit_features, unit_size


@dataclass(kw_only=True)
class MVJARConfig:
    """MV-JAR; the defaults are the paper's.

    Attributes:
        jigsaw_ratio, reconstruction_ratio: shares of the occupied units.
        window: units along (x, y, z) among which a jigsaw piece is sought.
        predicted_points: points predicted for each reconstruction unit.
        alpha, beta: weights of the jigsaw and the reconstruction loss.
    """

    jigsaw_ratio: float = 0.1
    reconstruction_ratio: float = 0.05
    window: tuple[int, int, int] = (12, 12, 1)
    predicted_points: int = 15
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        for ratio in (self.jigsaw_ratio, self.reconstruction_ratio, self.jigsaw_ratio + self.reconstruction_ratio):
            hidden_count(2, ratio)


class MVJAR(nn.Module):
    """MV-JAR around any LiDAR encoder.

    Args:
        encoder: what is pretrained.
        config: see :class:`MVJARConfig`.

    Raises:
        ValueError: a grid that does not hold whole units, so that pieces could not change places.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, encoder: LidarEncoder, config: MVJARConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MVJARConfig()
        self.encoder = encoder
        self.unit = unit_size(encoder)
        cut = [cells for cells, side in zip(encoder.grid.shape, self.unit, strict=True) if cells % side]
        if cut:
            raise ValueError(
                f"MV-JAR expected the grid {encoder.grid.shape} (z, y, x) to hold whole units of {self.unit} voxels: change point_range or voxel_size"
            )
        self.window = (config.window[0], config.window[1], config.window[2])
        dim = unit_dim(encoder)
        self.hidden_position = nn.Parameter(torch.zeros(3))
        self.hidden_point = nn.Parameter(torch.zeros(encoder.decorated_dim))
        self.cell_head = nn.Linear(dim, self.window[0] * self.window[1] * self.window[2])
        self.point_head = nn.Linear(dim, 3 * config.predicted_points)

    def forward(self, batch: PointBatch) -> Output:
        config = self.config
        units = group_units(self.encoder.voxelize(batch), self.unit)
        jigsaw, reconstruct = self.masks(units, batch.seeds)  # [U], [U]
        place = self.shuffle(units, jigsaw, generators_of(batch.seeds, "mv_jar/shuffle"))  # [U, 4]

        features = self.encode(units, jigsaw, reconstruct, place, generators_of(batch.seeds, "mv_jar/keep"))
        cell_scores = self.cell_head(unit_features(self.encoder, features, place[jigsaw]))  # [J, cells]
        points = self.point_head(unit_features(self.encoder, features, units.coords[reconstruct])).unflatten(1, (-1, 3))  # [R, K, 3]

        cells = window_cells(units.coords[jigsaw], self.window)  # [J]
        jigsaw_loss = mean_over_ranks(F.cross_entropy(cell_scores.float(), cells, reduction="sum"), len(cells))
        target, offsets = self.centred_points(units, reconstruct)
        reconstruction_loss = chamfer_loss(points, target, offsets)
        right = (cell_scores.argmax(1) == cells).float().mean() if len(cells) else torch.zeros(())
        return Output(
            loss=config.alpha * jigsaw_loss + config.beta * reconstruction_loss,
            metrics={
                "jigsaw": jigsaw_loss.detach(),
                "reconstruction": reconstruction_loss.detach(),
                "jigsaw_accuracy": right.detach(),
                "hidden_units": float((jigsaw | reconstruct).sum()),
            },
            features=monitored(features, batch.seeds),
            visuals=self.picture(batch, units, jigsaw, reconstruct, points),
        )

    def masks(self, units: MaskUnits, seeds: list[int]) -> tuple[Tensor, Tensor]:
        """``(U,)`` bool each: jigsaw units, reconstruction units."""
        ratios = (self.config.jigsaw_ratio, self.config.reconstruction_ratio)
        hidden = farthest_kept_mask(units.centers(), units.offsets(), sum(ratios), generators_of(seeds, "mv_jar/mask"))
        jigsaw, reconstruct = split_hidden(hidden, units.offsets(), ratios, generators_of(seeds, "mv_jar/split"))
        return jigsaw, reconstruct

    def shuffle(self, units: MaskUnits, jigsaw: Tensor, generators: Generators) -> Tensor:
        """``(U, 4)`` where each unit is put: jigsaw units permuted within each window, the others where they were."""
        window = units.coords[:, 1:] // units.coords.new_tensor(self.window[::-1])
        rows = jigsaw.nonzero()[:, 0]
        scan = units.coords[rows, 0]
        draws = torch.cat([torch.rand(int((scan == b).sum()), generator=generator, dtype=torch.float64) for b, generator in enumerate(generators)])
        _, group = torch.unique(torch.cat([scan[:, None], window[rows]], dim=1), dim=0, return_inverse=True)
        by_window = torch.argsort(group, stable=True)
        at_random = torch.argsort(group + draws.to(rows.device))
        place = units.coords.clone()
        place[rows[by_window]] = units.coords[rows[at_random]]
        return place

    def encode(self, units: MaskUnits, jigsaw: Tensor, reconstruct: Tensor, place: Tensor, generators: list[torch.Generator]) -> LidarFeatures:
        """The whole scan through the encoder, its hidden units altered."""
        shown, unit = collapse(units, reconstruct, generators)  # V' voxels; [V']
        decorated = self.encoder.decorate(shown)  # [P', F]
        absolute = torch.zeros(decorated.shape[1], dtype=torch.bool, device=decorated.device)
        absolute[list(self.encoder.absolute_columns)] = True
        position = decorated.new_zeros(decorated.shape[1]).masked_scatter(absolute, self.hidden_position.to(decorated.dtype))
        misplaced = jigsaw[unit][shown.point_voxel]  # [P']
        decorated = torch.where(misplaced[:, None] & absolute, position, decorated)

        decorated, shown = self.add_hidden_points(decorated, shown, reconstruct[unit].nonzero()[:, 0])
        pooled = self.encoder.pool(decorated, shown)  # [V', C]
        moved = (place - units.coords)[unit] * place.new_tensor((1, *units.size))
        sparse = SparseTensor.from_unsorted(shown.coords + moved, pooled, spatial_shape=shown.grid.shape, batch_size=shown.batch_size)
        return self.encoder.backbone(sparse)

    def add_hidden_points(self, decorated: Tensor, shown: Voxels, rows: Tensor) -> tuple[Tensor, Voxels]:
        """One more point in each of the voxels ``rows``, with the learned vector as its input columns."""
        point_voxel = torch.cat([shown.point_voxel, rows])
        order = torch.argsort(point_voxel, stable=True)
        decorated = torch.cat([decorated, self.hidden_point.to(decorated.dtype).expand(len(rows), -1)])[order]
        counts = shown.counts.index_add(0, rows, torch.ones_like(rows))
        first = shown.counts.cumsum(0) - shown.counts
        extra = first[rows]  # the point that stayed stands in for place and channels, which the encoder reads from `decorated` only
        source = torch.cat([torch.arange(len(shown.xyz), device=rows.device), extra])[order]
        voxels = replace(
            shown,
            xyz=shown.xyz[source],
            feats=shown.feats[source],
            point_voxel=point_voxel[order],
            point_index=shown.point_index[source],
            counts=counts,
        )
        return decorated, voxels

    def centred_points(self, units: MaskUnits, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Points of the chosen units relative to their unit's centre, metres; and where each unit starts."""
        rows, offsets = units.points_of(chosen)
        centers = torch.repeat_interleave(units.centers(units.coords[chosen]), offsets.diff(), dim=0)
        return units.voxels.xyz[rows] - centers, offsets

    def picture(self, batch: PointBatch, units: MaskUnits, jigsaw: Tensor, reconstruct: Tensor, points: Tensor) -> Visuals:
        hidden = units.coords[jigsaw | reconstruct]
        rebuilt = units.coords[reconstruct]
        first = rebuilt[:, 0] == 0
        predicted = units.centers(rebuilt[first])[:, None] + points[first].detach().float()
        return mask_scene(
            batch,
            hidden=units.centers(hidden[hidden[:, 0] == 0]),
            predicted=predicted.reshape(-1, 3),
            cell=units.grid.voxel_size[0] * units.size[2],
            title="MV-JAR: hidden voxels (jigsaw and reconstruction) and predicted points",
        )
