"""The two sparse-convolution backbones of SECOND and CenterPoint, tensor for tensor as in OpenPCDet.

    mean of each voxel's points -> conv_input -> conv1 -> conv2 (1/2) -> conv3 (1/4) -> conv4 (1/8) -> conv_out -> (B, 128 D, H/8, W/8)

Yan et al., "SECOND: Sparsely Embedded Convolutional Detection", Sensors 2018; Yin et al., "Center-based 3D Object Detection and
Tracking", CVPR 2021 (residual blocks). ``state_dict()`` holds exactly the keys that OpenPCDet stores below ``backbone_3d.``
(72 and 142 tensors), with sparse weights as (out, kz, ky, kx, in): the layout of spconv >= 2.2.

Details that published weights rely on: the grid gets one extra cell along z; batch normalisation has eps 1e-3 and momentum 0.01;
conv4's strided convolution has no padding along z; conv_out has kernel (3, 1, 1), stride (2, 1, 1) and no padding; convolutions
carry no bias except the two inside a residual block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suite3d.ops import SparseConv3d, SparseModule, SparseSequential, SparseTensor, SubMConv3d, scatter_mean
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid, Voxels
from suite3d.pointcloud.encoders.initialise import initialise
from suite3d.pointcloud.encoders.norm import VoxelNorm

STRIDES = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 8, 8)]


def subm_block(cin: int, cout: int, *, key: str) -> SparseSequential:
    """Submanifold 3x3x3 convolution, normalisation, ReLU."""
    return SparseSequential(SubMConv3d(cin, cout, 3, bias=False, indice_key=key), VoxelNorm(cout), nn.ReLU())


def down_block(
    cin: int,
    cout: int,
    *,
    key: str,
    kernel_size: int | tuple[int, int, int] = 3,
    stride: int | tuple[int, int, int] = 2,
    padding: int | tuple[int, int, int] = 1,
) -> SparseSequential:
    """Strided convolution, normalisation, ReLU."""
    conv = SparseConv3d(cin, cout, kernel_size, stride=stride, padding=padding, bias=False, indice_key=key)
    return SparseSequential(conv, VoxelNorm(cout), nn.ReLU())


class ResidualBlock(SparseModule):
    """conv1-bn1-ReLU-conv2-bn2 plus the input, then ReLU; both convolutions submanifold 3x3x3 with bias, sharing one kernel map."""

    def __init__(self, channels: int, *, key: str) -> None:
        super().__init__()
        self.conv1 = SubMConv3d(channels, channels, 3, bias=True, indice_key=key)
        self.bn1 = VoxelNorm(channels)
        self.conv2 = SubMConv3d(channels, channels, 3, bias=True, indice_key=key)
        self.bn2 = VoxelNorm(channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        hidden = self.conv1(x)
        hidden = self.conv2(hidden.replace(self.bn1(hidden.feats).relu()))
        return hidden.replace((self.bn2(hidden.feats) + x.feats).relu())


def strided_cells(cells: int, *, kernel: int, stride: int, padding: int) -> int:
    """Output cells of a convolution along one axis."""
    return (cells + 2 * padding - kernel) // stride + 1


def scaled(channels: Sequence[int], width: float) -> list[int]:
    """Channel counts times ``width``, to the nearest multiple of 4 and at least 4."""
    return [max(4, 4 * round(count * width / 4)) for count in channels]


class VoxelBackbone(LidarEncoder):
    """What the two backbones share: the mean of each voxel as input, five levels, the bird's-eye map.

    Args:
        grid: voxel grid; it needs at least 24 cells along z, which is what the four strided stages consume.
        channels: point channels after xyz, in the order of the stem's input columns.
        width: multiplies every channel count; 1 is the published network.
        max_points: average only the first ``max_points`` points of a voxel, as hard voxelisation with that limit does
            (OpenPCDet: 5 on KITTI, 10 on nuScenes); 0 averages all of them.
        generator: source of the initial weights.

    Raises:
        ValueError: a grid too flat for the strided stages.
    """

    stem = "conv_input.0.weight"
    conv_input: SparseSequential
    conv1: SparseSequential
    conv2: SparseSequential
    conv3: SparseSequential
    conv4: SparseSequential
    conv_out: SparseSequential

    def __init__(
        self,
        grid: VoxelGrid,
        *,
        channels: Sequence[str] = ("intensity",),
        width: float = 1.0,
        max_points: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.channels = tuple(channels)
        self.max_points = max_points
        self.input_columns = ("x", "y", "z", *self.channels)
        self.decorated_dim = self.embed_dim = len(self.input_columns)
        self.level_dims = self.build(width)
        depth = grid.shape[0] + 1
        for kernel, stride, padding in ((3, 2, 1), (3, 2, 1), (3, 2, 0), (3, 2, 0)):
            depth = strided_cells(depth, kernel=kernel, stride=stride, padding=padding)
        if depth < 1:
            raise ValueError(f"{type(self).__name__} expected a grid of at least 24 cells along z, got {grid.shape[0]}: use a smaller voxel_size[2]")
        self.bev_dim = self.level_dims[-1] * depth
        self.bev_stride = 8
        initialise(self, generator)

    @abstractmethod
    def build(self, width: float) -> tuple[int, ...]:
        """Create conv_input .. conv_out; returns the channels of the five levels."""

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        initialise(self, generator)

    def decorate(self, voxels: Voxels) -> Tensor:
        return torch.cat([voxels.xyz, voxels.feats], dim=1)  # (P, 3 + C)

    def pool(self, decorated: Tensor, voxels: Voxels) -> Tensor:
        if not self.max_points:
            return voxels.mean(decorated)
        first = voxels.counts.cumsum(0) - voxels.counts
        rank = torch.arange(len(decorated), device=decorated.device) - first[voxels.point_voxel]
        keep = rank < self.max_points
        return scatter_mean(decorated[keep], voxels.point_voxel[keep], len(voxels))

    def stages(self, x: SparseTensor) -> list[SparseTensor]:
        """Levels conv1 .. conv4 of a sparse input of any spatial shape."""
        levels = [self.conv1(self.conv_input(x))]
        for stage in (self.conv2, self.conv3, self.conv4):
            levels.append(stage(levels[-1]))
        return levels

    def backbone(self, voxels: SparseTensor) -> LidarFeatures:
        z, y, x = voxels.spatial_shape
        padded = SparseTensor(coords=voxels.coords, feats=voxels.feats, spatial_shape=(z + 1, y, x), batch_size=voxels.batch_size)
        levels = self.stages(padded)
        levels.append(self.conv_out(levels[-1]))
        return LidarFeatures(levels=levels, strides=list(STRIDES), bev=levels[-1].bev)


class VoxelBackBone8x(VoxelBackbone):
    """SECOND's backbone: 72 tensors, 711,872 parameters with 4 input columns."""

    def build(self, width: float) -> tuple[int, ...]:
        c0, c1, c2, c3, c4, c5 = scaled((16, 16, 32, 64, 64, 128), width)
        self.conv_input = subm_block(len(self.input_columns), c0, key="subm1")
        self.conv1 = SparseSequential(subm_block(c0, c1, key="subm1"))
        self.conv2 = SparseSequential(down_block(c1, c2, key="spconv2"), subm_block(c2, c2, key="subm2"), subm_block(c2, c2, key="subm2"))
        self.conv3 = SparseSequential(down_block(c2, c3, key="spconv3"), subm_block(c3, c3, key="subm3"), subm_block(c3, c3, key="subm3"))
        self.conv4 = SparseSequential(
            down_block(c3, c4, key="spconv4", padding=(0, 1, 1)), subm_block(c4, c4, key="subm4"), subm_block(c4, c4, key="subm4")
        )
        self.conv_out = down_block(c4, c5, key="spconv_down2", kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=0)
        return c1, c2, c3, c4, c5


class VoxelResBackBone8x(VoxelBackbone):
    """CenterPoint's residual backbone: 142 tensors, 2,695,312 parameters with 5 input columns."""

    def build(self, width: float) -> tuple[int, ...]:
        c1, c2, c3, c4, c5 = scaled((16, 32, 64, 128, 128), width)
        self.conv_input = subm_block(len(self.input_columns), c1, key="subm1")
        self.conv1 = SparseSequential(ResidualBlock(c1, key="res1"), ResidualBlock(c1, key="res1"))
        self.conv2 = SparseSequential(down_block(c1, c2, key="spconv2"), ResidualBlock(c2, key="res2"), ResidualBlock(c2, key="res2"))
        self.conv3 = SparseSequential(down_block(c2, c3, key="spconv3"), ResidualBlock(c3, key="res3"), ResidualBlock(c3, key="res3"))
        self.conv4 = SparseSequential(
            down_block(c3, c4, key="spconv4", padding=(0, 1, 1)), ResidualBlock(c4, key="res4"), ResidualBlock(c4, key="res4")
        )
        self.conv_out = down_block(c4, c5, key="spconv_down2", kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=0)
        return c1, c2, c3, c4, c5
