"""The convolutions of CenterPoint's head: one shared layer, then per class group one small branch per quantity.

Paper: Yin, Zhou, Krahenbuhl, CVPR 2021. Module names, and so checkpoint keys, are those of OpenPCDet's CenterHead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite3d.pointcloud.encoders.initialise import initialise

BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}


class SeparateHead(nn.Module):
    """Branches of one class group: ``(B, channels, H, W)`` -> {name: ``(B, outputs, H, W)``}, ``hm`` being the heat map logits."""

    def __init__(self, channels: int, *, classes: int, velocity: bool, bias_before_norm: bool) -> None:
        super().__init__()
        self.names = [name for name in BRANCHES if velocity or name != "vel"] + ["hm"]
        for name in self.names:
            hidden = shared_convolution(channels, channels, bias_before_norm=bias_before_norm)
            self.add_module(name, nn.Sequential(hidden, nn.Conv2d(channels, BRANCHES.get(name, classes), 3, padding=1)))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Kaiming-normal convolutions with zero bias, but the heat map's: torch's default, and a bias of -2.19."""
        initialise(self, generator)
        nn.init.constant_(self.get_parameter("hm.1.bias"), -2.19)  # every cell starts at a centre probability of 0.1
        for name in self.names[:-1]:
            for layer in self.get_submodule(name).modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, generator=generator)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: self.get_submodule(name)(features) for name in self.names}


def shared_convolution(in_channels: int, channels: int, *, bias_before_norm: bool) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias_before_norm), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
