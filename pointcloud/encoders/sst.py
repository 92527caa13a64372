"""SST: a transformer over occupied pillars that never changes their resolution.

    points -> point layers -> maximum over each pillar
           -> blocks x [attention in windows, attention in windows shifted by half] -> dense map -> a few 3x3 convolutions

Fan et al., "Embracing Single Stride 3D Object Detector with Sparse Transformer", CVPR 2022, sections 3.2-3.5. Post-normalised layers with
GELU, sine-cosine codes of the place inside the window on queries and keys, no dropout. The last part fills the holes that sparse
attention leaves between pillars: two 3x3 convolutions and one with dilation 2, each added to its input.

Difference to the released code: no voxel is dropped from crowded windows. The paper's batching by occupancy ("regional grouping") drops
voxels beyond a cap while training to save memory; here every window keeps all its voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.ops import SparseTensor
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid, Voxels
from suite3d.pointcloud.encoders.initialise import initialise, xavier_uniform
from suite3d.pointcloud.encoders.pillar import PillarVFE, decorate_points, point_columns
from suite3d.pointcloud.encoders.window import WindowAttention, WindowPlan, plan_windows, sincos_table, window_cells

__all__ = ["SST", "SSTConfig", "window_cells"]


@dataclass(kw_only=True)
class SSTConfig:
    """Sizes of SST; the defaults are the paper's.

    Attributes:
        point_dims: output channels of the point layers (all but the last hold half from the point, half from its pillar).
        dim: channels of a voxel.
        heads: attention heads.
        blocks: pairs of a plain and a shifted layer.
        feedforward: hidden channels of the feed-forward part.
        window: voxels along (x, y, z).
        refine_layers: dense convolutions on the bird's-eye map; the last one is dilated by 2.
    """

    point_dims: tuple[int, ...] = (128, 128)
    dim: int = 128
    heads: int = 8
    blocks: int = 6
    feedforward: int = 256
    window: tuple[int, int, int] = (12, 12, 1)
    refine_layers: int = 3


class SSTLayer(nn.Module):
    """x + attention, LayerNorm, + feed-forward, LayerNorm."""

    def __init__(self, dim: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention = WindowAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor, plan: WindowPlan) -> Tensor:
        x = self.norm1(x + self.attention(x, position, plan))
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))


class RefineLayer(nn.Module):
    """3x3 convolution, normalisation, ReLU; added to the input where the shapes agree."""

    def __init__(self, cin: int, cout: int, *, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        refined = self.norm(self.conv(x)).relu()
        return x + refined if x.shape == refined.shape else refined


class SST(LidarEncoder):
    """Single-stride sparse transformer: one level, stride 1, and a refined bird's-eye map.

    Args:
        grid: voxel grid, usually with one cell along z (pillars).
        channels: point channels after xyz.
        config: sizes.
        generator: source of the initial weights.

    Raises:
        ValueError: sizes that do not fit together.
    """

    stem = "vfe.pfn_layers.0.linear.weight"
    position: Tensor

    def __init__(
        self, grid: VoxelGrid, *, channels: Sequence[str] = ("intensity",), config: SSTConfig | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        config = config or SSTConfig()
        if not config.point_dims or config.point_dims[-1] != config.dim:
            raise ValueError(f"SST expected the last of point_dims to be dim = {config.dim}, got {list(config.point_dims)}")
        self.grid = grid
        self.channels = tuple(channels)
        self.window: tuple[int, int, int] = (config.window[0], config.window[1], config.window[2])
        self.input_columns = point_columns(self.channels)
        self.decorated_dim = len(self.input_columns)
        self.embed_dim = config.dim
        self.level_dims = (config.dim,)
        self.bev_dim = config.dim if config.refine_layers else config.dim * grid.shape[0]
        self.bev_stride = 1
        self.vfe = PillarVFE(self.decorated_dim, config.point_dims)
        self.layers = nn.ModuleList(SSTLayer(config.dim, config.heads, config.feedforward) for _ in range(2 * config.blocks))
        widths = [config.dim * grid.shape[0]] + [config.dim] * config.refine_layers
        last = config.refine_layers - 1
        self.refine = nn.Sequential(
            *(RefineLayer(widths[i], widths[i + 1], dilation=2 if i == last and last else 1) for i in range(config.refine_layers))
        )
        self.register_buffer("position", sincos_table(self.window, config.dim), persistent=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Point layers as torch's default; Glorot-uniform matrices in the transformer and the convolutions; attention biases zero."""
        initialise(self, generator)
        for part in (self.layers, self.refine):
            for parameter in part.parameters():
                if parameter.ndim > 1:
                    xavier_uniform(parameter, generator=generator)
        for layer in self.layers.modules():
            if isinstance(layer, WindowAttention):
                nn.init.zeros_(layer.in_proj.bias)
                nn.init.zeros_(layer.out_proj.bias)
        self.position = sincos_table(self.window, self.embed_dim).to(self.position.device)

    def decorate(self, voxels: Voxels) -> Tensor:
        return decorate_points(voxels)

    def pool(self, decorated: Tensor, voxels: Voxels) -> Tensor:
        return self.vfe(decorated, voxels.point_voxel, len(voxels))

    def transform(self, voxels: SparseTensor) -> SparseTensor:
        """Voxels through the transformer."""
        plans = [plan_windows(voxels.coords, self.window, shifted=shifted) for shifted in (False, True)]
        positions = [self.position[plan.cell].to(voxels.feats.dtype) for plan in plans]
        x = voxels.feats
        for index, layer in enumerate(self.layers):
            x = layer(x, positions[index % 2], plans[index % 2])
        return voxels.replace(x)

    def backbone(self, voxels: SparseTensor) -> LidarFeatures:
        voxels = self.transform(voxels)
        return LidarFeatures(levels=[voxels], strides=[(1, 1, 1)], bev=lambda: self.refine(voxels.bev()))
