"""Small random scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import VoxelGrid


def _scans(grid: VoxelGrid, counts: Sequence[int], channels: Sequence[str] = ("intensity",), seed: int = 0) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor(grid.point_range[:3]), torch.tensor(grid.point_range[3:])
    total = sum(counts)
    return PointBatch(
        xyz=low + torch.rand(total, 3, generator=generator) * (high - low) * 0.999,
        feats=torch.rand(total, len(channels), generator=generator),
        offsets=torch.tensor([0, *counts]).cumsum(0),
        channels=tuple(channels),
        names=[f"scan{b}" for b in range(len(counts))],
        seeds=list(range(len(counts))),
    )


def _shake_norms(module: nn.Module, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.3, generator=generator)


@pytest.fixture
def scans() -> Callable[..., PointBatch]:
    """``scans(grid, points_per_scan, channels, seed)``: uniform points in range."""
    return _scans


@pytest.fixture
def shake_norms() -> Callable[..., None]:
    """Give every batch normalisation random statistics, so that eval mode tests them."""
    return _shake_norms
