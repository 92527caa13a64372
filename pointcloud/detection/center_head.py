"""The convolutions of CenterPoint's head: one shared layer, then per class group one small branch per quantity.

Paper: Yin, Zhou, Krahenbuhl, CVPR 2021. Module names, and so checkpoint keys, are those of OpenPCDet's CenterHead.
"""

from __future__ import annotations

from torch import Tensor, nn

BRANCHES = {"center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}


class SeparateHead(nn.Module):
    """Branches of one class group: ``(B, channels, H, W)`` -> {name: ``(B, outputs, H, W)``}, ``hm`` being the heat map logits."""

    def __init__(self, channels: int, *, classes: int, velocity: bool, bias_before_norm: bool) -> None:
        super().__init__()
        self.names = [name for name in BRANCHES if velocity or name != "vel"] + ["hm"]
        for name in self.names:
            self.add_module(name, _branch(channels, BRANCHES.get(name, classes), heatmap=name == "hm", bias_before_norm=bias_before_norm))

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        return {name: self.get_submodule(name)(features) for name in self.names}


def shared_convolution(in_channels: int, channels: int, *, bias_before_norm: bool) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias_before_norm), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _branch(channels: int, outputs: int, *, heatmap: bool, bias_before_norm: bool) -> nn.Sequential:
    hidden = shared_convolution(channels, channels, bias_before_norm=bias_before_norm)
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    branch = nn.Sequential(hidden, last)
    if heatmap:
        nn.init.constant_(last.bias, -2.19)  # every cell starts at a centre probability of 0.1
        return branch
    for layer in (hidden[0], last):
        nn.init.kaiming_normal_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return branch
