"""PointPillars' encoder: a small PointNet over each vertical pillar, scattered to a bird's-eye map.

Lang et al., "PointPillars: Fast Encoders for Object Detection from Point Clouds", CVPR 2019, section 2.1. Names follow OpenPCDet
(``vfe.pfn_layers.0.linear.weight``, ``vfe.pfn_layers.0.norm.*``). Pillars are dynamic: every point counts and nothing is padded. (With
padding to 32 points, as in the published code, a padded row is a zero input that takes part in the normalisation statistics and the
maximum; the paper describes zero padding as a storage matter only.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suite3d.ops import SparseTensor, scatter_max
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid, Voxels
from suite3d.pointcloud.encoders.initialise import initialise
from suite3d.pointcloud.encoders.norm import VoxelNorm


def point_columns(channels: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns :func:`decorate_points` returns: absolute, channels, offset to the mean, offset to the centre."""
    return ("x", "y", "z", *channels, "mean_dx", "mean_dy", "mean_dz", "centre_dx", "centre_dy", "centre_dz")


def decorate_points(voxels: Voxels) -> Tensor:
    """``(P, 3 + C + 6)``: xyz, channels, xyz minus the mean of the voxel's points, xyz minus the voxel's centre; metres."""
    mean = voxels.mean(voxels.xyz)
    row = voxels.point_voxel
    return torch.cat([voxels.xyz, voxels.feats, voxels.xyz - mean[row], voxels.xyz - voxels.centers()[row]], dim=1)


class PointLayer(nn.Module):
    """Linear without bias, batch normalisation, ReLU on every point, then the maximum over each voxel.

    All but the last layer of a stack hand ``[point, voxel maximum]`` to the next one and are half as wide.
    """

    def __init__(self, cin: int, cout: int, *, last: bool) -> None:
        super().__init__()
        self.last = last
        width = cout if last else cout // 2
        self.linear = nn.Linear(cin, width, bias=False)
        self.norm = VoxelNorm(width)

    def forward(self, points: Tensor, row: Tensor, size: int) -> Tensor:
        """``(P, cin)``, ``(P,)`` voxel of each point -> ``(size, cout)`` if last, else ``(P, cout)``."""
        points = self.norm(self.linear(points)).relu()
        pooled = scatter_max(points, row, size)  # [V, width]
        return pooled if self.last else torch.cat([points, pooled[row]], dim=1)  # [P, cout]


class PillarVFE(nn.Module):
    """Stack of :class:`PointLayer`; ``dims`` are the output channels of the layers."""

    def __init__(self, cin: int, dims: Sequence[int]) -> None:
        super().__init__()
        widths = [cin, *dims]
        self.pfn_layers = nn.ModuleList(
            PointLayer(before, after, last=index == len(dims) - 1) for index, (before, after) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )

    def forward(self, points: Tensor, row: Tensor, size: int) -> Tensor:
        for layer in self.pfn_layers:
            points = layer(points, row, size)
        return points  # [V, dims[-1]]


class PillarEncoder(LidarEncoder):
    """Pillars at full resolution: one level, stride 1, and the bird's-eye map they scatter to.

    Args:
        grid: voxel grid with a single cell along z.
        channels: point channels after xyz.
        dims: output channels of the point layers; the published network has one layer of 64.
        generator: source of the initial weights.

    Raises:
        ValueError: a grid of more than one cell along z, or no layer.
    """

    stem = "vfe.pfn_layers.0.linear.weight"

    def __init__(
        self, grid: VoxelGrid, *, channels: Sequence[str] = ("intensity",), dims: Sequence[int] = (64,), generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if grid.shape[0] != 1:
            raise ValueError(
                f"PillarEncoder expected one cell along z, got {grid.shape[0]}: set voxel_size[2] to {grid.point_range[5] - grid.point_range[2]:g}"
            )
        if not dims:
            raise ValueError("PillarEncoder expected at least one entry in dims, got none")
        self.grid = grid
        self.channels = tuple(channels)
        self.input_columns = point_columns(self.channels)
        self.decorated_dim = len(self.input_columns)
        self.embed_dim = self.bev_dim = dims[-1]
        self.level_dims = (self.embed_dim,)
        self.bev_stride = 1
        self.vfe = PillarVFE(self.decorated_dim, dims)
        initialise(self, generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        initialise(self, generator)

    def decorate(self, voxels: Voxels) -> Tensor:
        return decorate_points(voxels)

    def pool(self, decorated: Tensor, voxels: Voxels) -> Tensor:
        return self.vfe(decorated, voxels.point_voxel, len(voxels))

    def backbone(self, voxels: SparseTensor) -> LidarFeatures:
        return LidarFeatures(levels=[voxels], strides=[(1, 1, 1)], bev=voxels.bev)
