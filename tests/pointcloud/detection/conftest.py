"""A toy encoder and a tiny scene of box-shaped clusters, shared by the detection tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.encoders.base import LidarFeatures, VoxelGrid

GRID = VoxelGrid(point_range=(0.0, -12.8, -3.0, 25.6, 12.8, 1.0), voxel_size=(0.4, 0.4, 4.0))
SIZES = torch.tensor([[3.9, 1.6, 1.56], [0.8, 0.6, 1.73]])


class ToyEncoder(nn.Module):
    """Per pillar: occupancy, log count and the mean offset of its points, through two convolutions. Not a sparse network."""

    channels = ("intensity",)

    def __init__(self, grid: VoxelGrid = GRID, *, dim: int = 32) -> None:
        super().__init__()
        self.grid, self.bev_dim, self.bev_stride = grid, dim, 1
        self.stem = nn.Sequential(
            nn.Conv2d(5, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU()
        )

    def forward(self, batch: PointBatch) -> LidarFeatures:
        _, height, width = self.grid.shape
        low = batch.xyz.new_tensor(self.grid.point_range[:3])
        high = batch.xyz.new_tensor(self.grid.point_range[3:])
        inside = ((batch.xyz >= low) & (batch.xyz < high)).all(dim=1)
        xyz, scan = batch.xyz[inside], batch.batch_index()[inside]
        cell = (xyz[:, :2] - low[:2]) / batch.xyz.new_tensor(self.grid.voxel_size[:2])
        row = (scan * height + cell[:, 1].long().clamp(0, height - 1)) * width + cell[:, 0].long().clamp(0, width - 1)
        ones = torch.ones(len(xyz), 1)
        sums = torch.zeros(batch.batch_size * height * width, 4).index_add_(0, row, torch.cat([ones, cell - cell.floor() - 0.5, xyz[:, 2:]], dim=1))
        count = sums[:, :1]
        maps = torch.cat([(count > 0).float(), count.log1p(), sums[:, 1:] / count.clamp(min=1)], dim=1)
        maps = maps.view(batch.batch_size, height, width, 5).permute(0, 3, 1, 2)
        return LidarFeatures(levels=[], strides=[], bev=self.stem(maps))


@dataclass
class Scene:
    boxes: list[Tensor]
    labels: list[Tensor]


def surface_points(box: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points on the sides and the top of a box."""
    unit = torch.rand(count, 3, generator=generator) - 0.5
    side = torch.randint(0, 5, (count,), generator=generator)
    for value, (axis, sign) in enumerate([(0, 0.5), (0, -0.5), (1, 0.5), (1, -0.5), (2, 0.5)]):
        unit[side == value, axis] = sign
    local = unit * box[3:6]
    cos, sin = math.cos(box[6]), math.sin(box[6])
    return torch.stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]], dim=1) + box[:3]


def make_batch(boxes: list[Tensor], labels: list[Tensor], *, seed: int = 0, clutter: int = 200, points_a_box: int = 150) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    clouds = []
    for scan in boxes:
        noise = torch.rand(clutter, 3, generator=generator) * torch.tensor([25.6, 25.6, 0.2]) + torch.tensor([0.0, -12.8, -1.9])
        clouds.append(torch.cat([noise, *(surface_points(box, points_a_box, generator) for box in scan)]))
    counts = torch.tensor([0] + [len(cloud) for cloud in clouds])
    xyz = torch.cat(clouds)
    return PointBatch(
        xyz=xyz,
        feats=torch.zeros(len(xyz), 1),
        offsets=counts.cumsum(0),
        channels=("intensity",),
        names=[f"toy/{index:03d}" for index in range(len(boxes))],
        seeds=list(range(len(boxes))),
        boxes=boxes,
        labels=labels,
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Maps this small gain nothing from threads and lose a lot on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def toy_encoder() -> Callable[..., ToyEncoder]:
    return ToyEncoder


@pytest.fixture
def batch_of() -> Callable[..., PointBatch]:
    return make_batch


@pytest.fixture
def toy_batch() -> PointBatch:
    """Two scans: three cars and a pedestrian; two cars and a pedestrian."""
    boxes = [
        torch.tensor(
            [
                [6.0, 3.0, -1.0, 3.9, 1.6, 1.56, 0.3],
                [15.0, -6.0, -1.0, 4.2, 1.7, 1.5, -1.4],
                [19.0, 6.0, -1.1, 3.7, 1.6, 1.6, 2.9],
                [9.0, -4.0, -0.9, 0.8, 0.6, 1.73, 0.0],
            ]
        ),
        torch.tensor([[10.0, 8.0, -1.0, 4.0, 1.6, 1.5, 1.5], [12.0, -3.0, -1.0, 3.9, 1.7, 1.56, -2.6], [18.0, 1.0, -0.9, 0.8, 0.7, 1.7, 1.6]]),
    ]
    return make_batch(boxes, [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1])])
