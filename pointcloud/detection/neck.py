"""The 2D backbone of SECOND, PointPillars and CenterPoint: strided stages whose outputs are brought to one stride and concatenated.

Paper: Yan et al., SECOND, Sensors 2018, 3.1.3 (RPN). Module names, and so checkpoint keys, are those of OpenPCDet's BaseBEVBackbone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from suite3d.pointcloud.encoders.initialise import initialise


@dataclass(kw_only=True)
class NeckConfig:
    """The defaults are SECOND's on KITTI.

    Attributes:
        layer_nums: 3x3 convolutions of each stage after its first.
        layer_strides: stride of the first convolution of each stage.
        num_filters: channels of each stage.
        upsample_strides: factor by which each stage's map grows before concatenation; below 1 it shrinks (0.5 halves it).
        num_upsample_filters: channels each stage contributes to the concatenation.
        norm_momentum: of the batch norms. At 0.01 the running statistics need some 500 steps to settle; raise it for shorter runs.
    """

    layer_nums: tuple[int, ...] = (5, 5)
    layer_strides: tuple[int, ...] = (1, 2)
    num_filters: tuple[int, ...] = (128, 256)
    upsample_strides: tuple[float, ...] = (1.0, 2.0)
    num_upsample_filters: tuple[int, ...] = (256, 256)
    norm_momentum: float = 0.01


class BevNeck(nn.Module):
    """``(B, in_channels, H, W)`` -> ``(B, out_channels, H / stride, W / stride)``.

    Attributes:
        out_channels: sum of the upsampled channels.
        stride: input cells per output cell (may be below 1 in exotic configurations; then a Fraction).
        divisor: H and W must be multiples of it.

    Raises:
        ValueError: the lists differ in length, or the stages do not arrive at one stride.
    """

    def __init__(self, in_channels: int, config: NeckConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        stages = len(config.layer_nums)
        lengths = {len(config.layer_strides), len(config.num_filters), len(config.upsample_strides), len(config.num_upsample_filters)}
        if stages == 0 or lengths != {stages}:
            raise ValueError(f"NeckConfig expected five lists of one length, at least 1, got {config}")
        self.blocks = nn.ModuleList()
        self.deblocks = nn.ModuleList()
        strides, self.divisor, depth, width = [], 1, Fraction(1), in_channels
        for stage in range(stages):
            depth *= config.layer_strides[stage]
            shape = {"stride": config.layer_strides[stage], "repeats": config.layer_nums[stage]}
            self.blocks.append(_stage(width, config.num_filters[stage], momentum=config.norm_momentum, **shape))
            width = config.num_filters[stage]
            factor = Fraction(config.upsample_strides[stage]).limit_denominator(64)
            self.deblocks.append(_resample(width, config.num_upsample_filters[stage], factor, momentum=config.norm_momentum))
            strides.append(depth / factor)
            self.divisor = math.lcm(self.divisor, int(depth), math.ceil(depth / factor))
        if len(set(strides)) > 1:
            raise ValueError(
                f"the neck's stages arrive at strides {[float(stride) for stride in strides]}: choose upsample_strides so that they are equal "
                f"(layer_strides {list(config.layer_strides)}, upsample_strides {list(config.upsample_strides)})"
            )
        self.stride: int | Fraction = int(strides[0]) if strides[0].denominator == 1 else strides[0]
        self.out_channels = sum(config.num_upsample_filters)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        initialise(self, generator)

    def forward(self, bev: Tensor) -> Tensor:
        if bev.shape[2] % self.divisor or bev.shape[3] % self.divisor:
            raise ValueError(
                f"the neck expected a map whose sides are multiples of {self.divisor}, got {tuple(bev.shape)}: change encoder.grid.point_range"
            )
        maps = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            bev = block(bev)
            maps.append(deblock(bev))
        return torch.cat(maps, dim=1)


def _norm(channels: int, momentum: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=momentum)


def _stage(cin: int, cout: int, *, stride: int, repeats: int, momentum: float) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ZeroPad2d(1), nn.Conv2d(cin, cout, 3, stride=stride, bias=False), _norm(cout, momentum), nn.ReLU(inplace=True)]
    for _ in range(repeats):
        layers += [nn.Conv2d(cout, cout, 3, padding=1, bias=False), _norm(cout, momentum), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _resample(cin: int, cout: int, factor: Fraction, *, momentum: float) -> nn.Sequential:
    """Non-overlapping transposed convolution (factor >= 1) or strided convolution (factor 1 / n)."""
    if factor >= 1 and factor.denominator == 1:
        layer: nn.Module = nn.ConvTranspose2d(cin, cout, int(factor), stride=int(factor), bias=False)
    elif factor > 0 and factor.numerator == 1:
        layer = nn.Conv2d(cin, cout, factor.denominator, stride=factor.denominator, bias=False)
    else:
        raise ValueError(f"upsample_strides expected whole numbers or their inverses, got {float(factor)}")
    return nn.Sequential(layer, _norm(cout, momentum), nn.ReLU(inplace=True))
