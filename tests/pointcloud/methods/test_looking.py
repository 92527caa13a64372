"""What methods hand to the monitor and to the report."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.pointcloud.methods.bev_contrast import BEVContrast
from suite3d.pointcloud.methods.looking import sample_rows
from suite3d.pointcloud.methods.mv_jar import MVJAR
from suite3d.pointcloud.methods.occupancy_mae import OccupancyMAE
from suite3d.pointcloud.methods.prc import PRC
from suite3d.pointcloud.methods.voxel_mae import VoxelMAE
from suite3d.report.bev import BevScene, draw_bev

METHODS = (MVJAR, VoxelMAE, OccupancyMAE, BEVContrast, PRC)


@pytest.mark.parametrize("name", ["sst", "voxel"])
@pytest.mark.parametrize("method", METHODS)
def test_pictures_show_the_first_scan_and_lie_in_range(build, batch, pair, method, name):
    torch.manual_seed(0)
    boxes = [torch.tensor([[1.0, 2.0, 0.0, 4.0, 2.0, 1.5, 0.3]]), torch.zeros(0, 7)]
    pair, batch = replace(pair, first=replace(pair.first, boxes=boxes)), replace(batch, boxes=boxes)
    output = method(build(name))(pair if "pairs" in method.needs else batch)
    assert output.loss.dtype == torch.float32 and output.loss.ndim == 0
    assert output.features is not None and not output.features.requires_grad and 0 < len(output.features) <= 2048
    assert output.visuals is not None
    scene = output.visuals()["reconstruction"]
    assert isinstance(scene, BevScene)
    assert scene.points.shape == (420, 3) and torch.equal(torch.from_numpy(scene.points), batch.xyz[:420])
    assert scene.labels_boxes is not None and scene.labels_boxes.shape == (1, 7)
    assert len(scene.hidden) + len(scene.predicted) > 10
    for points in (scene.hidden, scene.predicted):
        assert points.shape[1] == 3 and abs(points[:, :2]).max(initial=0) < 10
    picture = draw_bev(scene, size=200)
    assert picture.dtype.name == "uint8" and picture.shape[2] == 3


def test_sampled_rows_are_rows_chosen_by_the_seed():
    rows = torch.arange(6000.0, requires_grad=True)[:, None]
    first, again, other = (sample_rows(rows, seeds) for seeds in ([1, 5], [1, 6], [2, 5]))
    assert len(first) == 2048 == len(first.unique()) and not first.requires_grad
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(sample_rows(rows[:10], [3]), rows[:10].detach())
