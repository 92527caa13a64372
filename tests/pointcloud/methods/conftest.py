"""Tiny scans, and every encoder at a size that steps in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.pointcloud.data.batch import PairBatch, PointBatch
from suite3d.pointcloud.encoders.base import VoxelGrid
from suite3d.pointcloud.encoders.pillar import PillarEncoder
from suite3d.pointcloud.encoders.sst import SST, SSTConfig
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x, VoxelResBackBone8x

RANGE = (-6.4, -6.4, -2.0, 6.4, 6.4, 2.8)
ENCODERS = ("sst", "pillar", "voxel", "residual")


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small only lose from threads, and far more when other jobs hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_scan(generator, points):
    """Blobs on a plane: some dense, some sparse, a few points out of range."""
    centers = torch.rand(14, 3, generator=generator) * torch.tensor([12.0, 12.0, 1.5]) - torch.tensor([6.0, 6.0, 1.0])
    owner = torch.randint(14, (points,), generator=generator)
    return centers[owner] + torch.randn(points, 3, generator=generator) * torch.tensor([0.5, 0.5, 0.3])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    scans = [draw_scan(generator, n) for n in (420, 330)]
    return PointBatch(
        xyz=torch.cat(scans),
        feats=torch.rand(750, 1, generator=generator),
        offsets=torch.tensor([0, 420, 750]),
        channels=("intensity",),
        names=["a", "b"],
        seeds=[11, 12],
    )


@pytest.fixture
def pair(batch):
    """The scans and the same scans turned by 90 degrees and flipped; nearest blobs as regions."""
    matrix = torch.tensor([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)  # first -> second
    second = replace(batch, xyz=(batch.xyz.double() @ matrix[:3, :3].T).float())
    generator = torch.Generator().manual_seed(5)
    rows = torch.arange(len(batch.xyz))
    regions = torch.randint(-1, 6, (len(rows),), generator=generator)
    regions = torch.where((regions >= 0) & (rows >= 420), regions + 6, regions)
    return PairBatch(
        first=batch, second=second, second_to_first=torch.linalg.inv(matrix).expand(2, 4, 4), first_rows=rows, second_rows=rows, regions=regions
    )


@pytest.fixture
def build():
    """Encoder by name, the same weights every time."""

    def make(name):
        generator = torch.Generator().manual_seed(3)
        pillars, voxels = VoxelGrid(point_range=RANGE, voxel_size=(0.4, 0.4, 4.8)), VoxelGrid(point_range=RANGE, voxel_size=(0.1, 0.1, 0.15))
        if name == "sst":
            sizes = SSTConfig(point_dims=(16, 32), dim=32, heads=4, blocks=1, feedforward=48, refine_layers=1)
            return SST(pillars, config=sizes, generator=generator)
        if name == "pillar":
            return PillarEncoder(pillars, dims=(32,), generator=generator)
        return (VoxelBackBone8x if name == "voxel" else VoxelResBackBone8x)(voxels, width=0.5, generator=generator)

    return make


@pytest.fixture
def learn():
    """Loss before and after some steps on one batch."""

    def run(method, batch, steps=25, rate=3e-3):
        optimizer = torch.optim.AdamW(method.parameters(), lr=rate)
        losses = []
        for _ in range(steps):
            loss = method(batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return sum(losses[:2]) / 2, sum(losses[-2:]) / 2

    return run


@pytest.fixture
def outputs_of():
    """Run a method and return what named submodules put out, with the method's output."""

    def run(method, batch, *names):
        seen = {}
        modules = dict(method.named_modules())
        hooks = [modules[name].register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach().clone())) for name in names]
        output = method(batch)
        for hook in hooks:
            hook.remove()
        return output, seen

    return run


@pytest.fixture
def gradients_reach():
    """Names of encoder parameters (all but those a method does not use) that got no gradient."""

    def run(method, batch, unused=()):
        method.zero_grad()
        method(batch).loss.backward()
        return [
            name
            for name, parameter in method.encoder.named_parameters()
            if not name.startswith(tuple(unused)) and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
        ]

    return run
