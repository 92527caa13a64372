"""3D residual networks of the contrastive methods: R3D-18, R(2+1)D-18 (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018)
and the R3D-50 of CVRL (Qian et al., CVPR 2021: the slow path of SlowFast, with a stem of five frames and temporal stride 2).

Parameters of the 18-layer networks are named as in torchvision's ``video`` models, so their files load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

Conv = Callable[[int, int, int, int], nn.Module]  # channels in, channels out, channels between, stride


def conv_3d(cin: int, cout: int, between: int, stride: int) -> nn.Module:
    """3 x 3 x 3 convolution; ``between`` is not used."""
    return nn.Conv3d(cin, cout, 3, stride=stride, padding=1, bias=False)


def conv_2plus1d(cin: int, cout: int, between: int, stride: int) -> nn.Module:
    """1 x 3 x 3 convolution to ``between`` channels, batch norm, ReLU, 3 x 1 x 1 convolution."""
    return nn.Sequential(
        nn.Conv3d(cin, between, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        nn.Conv3d(between, cout, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


def _normed(conv: nn.Module, channels: int, *, relu: bool) -> nn.Sequential:
    layers = [conv, nn.BatchNorm3d(channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def _shortcut(cin: int, cout: int, stride: tuple[int, int, int]) -> nn.Module:
    if cin == cout and stride == (1, 1, 1):
        return nn.Identity()
    return nn.Sequential(nn.Conv3d(cin, cout, 1, stride=stride, bias=False), nn.BatchNorm3d(cout))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut.

    R(2+1)D's channels between space and time are chosen so that a pair has as many parameters as a 3 x 3 x 3 convolution; as in the
    published networks, both pairs of a block use the number of the first.
    """

    expansion = 1

    def __init__(self, cin: int, width: int, stride: int, *, conv: Conv) -> None:
        super().__init__()
        between = (cin * width * 27) // (cin * 9 + 3 * width)
        self.conv1 = _normed(conv(cin, width, between, stride), width, relu=True)
        self.conv2 = _normed(conv(width, width, between, 1), width, relu=False)
        self.downsample = _shortcut(cin, width, (stride, stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """1 x 1 convolution over ``kernel`` frames, 1 x 3 x 3 with the spatial stride, 1 x 1 x 1, and a shortcut; time is not strided."""

    expansion = 4

    def __init__(self, cin: int, width: int, stride: int, *, kernel: int) -> None:
        super().__init__()
        cout = width * self.expansion
        reduce = nn.Conv3d(cin, width, (kernel, 1, 1), padding=(kernel // 2, 0, 0), bias=False)
        self.conv1 = _normed(reduce, width, relu=True)
        self.conv2 = _normed(nn.Conv3d(width, width, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False), width, relu=True)
        self.conv3 = _normed(nn.Conv3d(width, cout, 1, bias=False), cout, relu=False)
        self.downsample = _shortcut(cin, cout, (1, stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv3(self.conv2(self.conv1(x))) + self.downsample(x)).relu()


class VideoResNet(nn.Module):
    """Stem and four stages of residual blocks.

    Args:
        stem: clip -> ``width`` channels.
        blocks: per stage, ``block(channels in, width, spatial stride) -> module`` with ``expansion``.
        depths: blocks per stage.
        expansion: channels out of a block over its width.
        strides: of the last feature map along (t, h, w), in frames and pixels.
        name: what :meth:`describe` says.
        width: channels of the stem and of the first stage's blocks inside, doubled from stage to stage; 64 in all published networks.
        generator: source of the initial weights.

    Attributes:
        embed_dim: channels of a token.
        strides: as given.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        blocks: Sequence[Callable[[int, int, int], nn.Module]],
        depths: Sequence[int],
        expansion: int,
        strides: tuple[int, int, int],
        name: str,
        width: int = 64,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.strides, self.name, self.width = strides, name, width
        self.embed_dim = 8 * width * expansion
        self.stem = stem
        channels, stages = width, []
        for stage, (block, depth) in enumerate(zip(blocks, depths, strict=True)):
            inside = width * 2**stage
            layers = []
            for i in range(depth):
                layers.append(block(channels, inside, 2 if stage and not i else 1))
                channels = inside * expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of variance 2 / fan-out (He et al., 2015); batch norms 1 and 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv3d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.BatchNorm3d):
                layer.reset_parameters()

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        return {"class": type(self).__name__, "name": self.name, "width": self.width}

    def feature_map(self, x: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` -> ``(B, embed_dim, t, h, w)``."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` -> ``(B, t * h * w, embed_dim)``."""
        return rearrange(self.feature_map(x), "b c t h w -> b (t h w) c")


def r3d_18(*, generator: torch.Generator | None = None, width: int = 64) -> VideoResNet:
    """R3D-18: 3 x 3 x 3 convolutions, stride 8 in time and 16 in space. ``width``: see :class:`VideoResNet`."""
    stem = _normed(nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False), width, relu=True)
    return _resnet_18(stem, conv_3d, "r3d_18", generator, width)


def r2plus1d_18(*, generator: torch.Generator | None = None, width: int = 64) -> VideoResNet:
    """R(2+1)D-18: space and time convolved in turn. ``width``: see :class:`VideoResNet`; the stem has 45/64 of it between space and time."""
    between = width * 45 // 64
    stem = nn.Sequential(
        *_normed(nn.Conv3d(3, between, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False), between, relu=True),
        *_normed(nn.Conv3d(between, width, (3, 1, 1), padding=(1, 0, 0), bias=False), width, relu=True),
    )
    return _resnet_18(stem, conv_2plus1d, "r2plus1d_18", generator, width)


def r3d_50(*, generator: torch.Generator | None = None, width: int = 64, stem_frames: int = 5, stem_stride: int = 2) -> VideoResNet:
    """CVRL's R3D-50: temporal kernels 1, 1, 3, 3 by stage; stem of 5 x 7 x 7 with temporal stride 2, then a 1 x 3 x 3 maximum.

    Args:
        width: see :class:`VideoResNet`.
        stem_frames, stem_stride: temporal kernel and stride of the stem; 1 and 1 give the slow path of SlowFast ("Slow R50").
    """
    conv = nn.Conv3d(3, width, (stem_frames, 7, 7), stride=(stem_stride, 2, 2), padding=(stem_frames // 2, 3, 3), bias=False)
    stem = nn.Sequential(*_normed(conv, width, relu=True), nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)))
    return VideoResNet(
        stem=stem,
        blocks=[partial(Bottleneck, kernel=kernel) for kernel in (1, 1, 3, 3)],
        depths=(3, 4, 6, 3),
        expansion=Bottleneck.expansion,
        strides=(stem_stride, 32, 32),
        name="r3d_50" if (stem_frames, stem_stride) == (5, 2) else f"r3d_50(stem_frames={stem_frames}, stem_stride={stem_stride})",
        width=width,
        generator=generator,
    )


def _resnet_18(stem: nn.Module, conv: Conv, name: str, generator: torch.Generator | None, width: int) -> VideoResNet:
    return VideoResNet(
        stem=stem,
        blocks=[partial(BasicBlock, conv=conv)] * 4,
        depths=(2, 2, 2, 2),
        expansion=BasicBlock.expansion,
        strides=(8, 16, 16),
        name=name,
        width=width,
        generator=generator,
    )
