"""Pillar encoder against a loop over pillars."""

from __future__ import annotations

import pytest
import torch

from suite3d.pointcloud.encoders import PillarEncoder, VoxelGrid

GRID = VoxelGrid(point_range=(0.0, -1.0, -3.0, 2.0, 1.0, 1.0), voxel_size=(0.5, 0.25, 4.0))


def test_published_names_and_shapes() -> None:
    norm = {f"vfe.pfn_layers.0.norm.{name}": (64,) for name in ("weight", "bias", "running_mean", "running_var")}
    expected = {"vfe.pfn_layers.0.linear.weight": (64, 10), **norm, "vfe.pfn_layers.0.norm.num_batches_tracked": ()}
    assert {key: tuple(value.shape) for key, value in PillarEncoder(GRID).state_dict().items()} == expected
    assert PillarEncoder(GRID, channels=("intensity", "time")).vfe.pfn_layers[0].linear.in_features == 11


@pytest.mark.parametrize("dims", [(8,), (8, 12)])
def test_equals_a_loop_over_pillars(dims: tuple[int, ...], scans, shake_norms) -> None:
    encoder = PillarEncoder(GRID, dims=dims, generator=torch.Generator().manual_seed(0)).eval()
    shake_norms(encoder)
    batch = scans(GRID, [80, 50])
    bev = encoder(batch).bev
    expected = torch.zeros(2, dims[-1], 8, 4)
    cells: dict[tuple[int, int, int], list[int]] = {}
    for scan in range(2):
        for row in range(int(batch.offsets[scan]), int(batch.offsets[scan + 1])):
            x, y, _ = batch.xyz[row].tolist()
            cells.setdefault((scan, int((y + 1.0) // 0.25), int(x // 0.5)), []).append(row)
    for (scan, iy, ix), rows in cells.items():
        xyz = batch.xyz[rows]
        centre = torch.tensor([(ix + 0.5) * 0.5, -1.0 + (iy + 0.5) * 0.25, -1.0])
        points = torch.cat([xyz, batch.feats[rows], xyz - xyz.mean(0), xyz - centre], dim=1)
        for index, layer in enumerate(encoder.vfe.pfn_layers):
            norm = layer.norm
            points = points @ layer.linear.weight.T
            points = ((points - norm.running_mean) / (norm.running_var + 1e-3).sqrt() * norm.weight + norm.bias).relu()
            pooled = points.max(0).values
            if index + 1 < len(dims):
                points = torch.cat([points, pooled.expand(len(points), -1)], dim=1)
        expected[scan, :, iy, ix] = pooled
    torch.testing.assert_close(bev, expected, atol=1e-5, rtol=1e-5)
