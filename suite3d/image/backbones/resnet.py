"""Residual networks with the parameter names of torchvision's and timm's.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the stride of a bottleneck is in its 3 x 3 convolution (ResNet "v1.5").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(out)) + (x if self.downsample is None else self.downsample(x))).relu()


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions beside a shortcut; four times as many channels come out as the middle has."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = _shortcut(channels, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        return (self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x))).relu()


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """ResNet-18, 34, 50 or 101.

    Args:
        depth: 18, 34, 50 or 101.
        width: channels of the stem; 64 in all published ones.
        stem: ``imagenet`` (7 x 7 with stride 2 and max-pooling: stride 32 in all) or ``small`` (3 x 3, no pooling: stride 8, the usual
            variant for pictures of 32 pixels).
        stages: how many of the four there are; 3 for methods that pretrain the first ones on small patches (Selfie).

    Attributes:
        embed_dim: channels that come out.
        stride: pixels of the input per feature of the grid.
        level_dims: channels after each stage.

    Raises:
        ValueError: another depth, stem or number of stages.
    """

    def __init__(self, depth: int = 50, *, width: int = 64, stem: str = "imagenet", stages: int = 4) -> None:
        super().__init__()
        if depth not in BLOCKS or stem not in ("imagenet", "small"):
            raise ValueError(f"ResNet expected a depth of {sorted(BLOCKS)} and the stem imagenet or small, got {depth} and '{stem}'")
        if not 1 <= stages <= 4:
            raise ValueError(f"ResNet expected 1 to 4 stages, got {stages}")
        self.depth, self.width, self.stem, self.stages = depth, width, stem, stages
        block = BasicBlock if depth < 50 else Bottleneck
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(3, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        channels, self.level_dims = width, []
        for stage, count in enumerate(BLOCKS[depth][:stages]):
            blocks = []
            for place in range(count):
                blocks.append(block(channels, width * 2**stage, 2 if stage > 0 and place == 0 else 1))
                channels = width * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.level_dims.append(channels)
        self.embed_dim = channels
        self.stride = (4 if large else 1) * 2 ** (stages - 1)
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """He's normal initialisation; the last norm of every block starts at 0, so that each block starts as its shortcut (Goyal et al., 2017)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        return {"class": type(self).__name__, "config": {"depth": self.depth, "width": self.width, "stem": self.stem, "stages": self.stages}}

    def levels(self, x: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> the maps after the stages, ``(B, level_dims[i], H_i, W_i)``."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        maps = []
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> ``(B, N, embed_dim)``, N places of the last map row by row."""
        return self.levels(x)[-1].flatten(2).transpose(1, 2)
