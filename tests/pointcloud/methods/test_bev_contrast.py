"""BEVContrast: the warp is right for turns, flips, scales and shifts; the loss is InfoNCE over shared cells."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.losses.info_nce import info_nce
from suite3d.pointcloud.data.batch import PairBatch
from suite3d.pointcloud.encoders.base import LidarEncoder, LidarFeatures, VoxelGrid
from suite3d.pointcloud.methods.bev_contrast import BEVContrast, BEVContrastConfig, resample

ENCODERS = ("sst", "pillar", "voxel", "residual")


class HeightMap(LidarEncoder):
    """Mean height and intensity of each pillar: turns with the scan, so that a right warp finds equal features."""

    channels = ("intensity",)
    embed_dim = bev_dim = decorated_dim = 4
    level_dims = (4,)
    bev_stride = 1

    def __init__(self, size=0.4):
        super().__init__()
        self.grid = VoxelGrid(point_range=(-6.4, -6.4, -2.0, 6.4, 6.4, 2.8), voxel_size=(size, size, 4.8))

    def reset_parameters(self, generator=None):
        """Nothing to draw: there are no weights."""

    def decorate(self, voxels):
        z, i = voxels.xyz[:, 2:], voxels.feats
        return torch.cat([z, i, z * z, torch.ones_like(z)], dim=1)

    def pool(self, decorated, voxels):
        return voxels.mean(decorated)

    def backbone(self, voxels):
        return LidarFeatures(levels=[voxels], strides=[(1, 1, 1)], bev=voxels.bev())


def make(encoder, **config):
    torch.manual_seed(0)
    return BEVContrast(encoder, BEVContrastConfig(**{"dim": 16, "cell_size": 0.4, **config}))


def matrix(linear, shift=(0.0, 0.0)):
    m = torch.eye(4, dtype=torch.float64)
    m[:2, :2] = torch.tensor(linear, dtype=torch.float64)
    m[:2, 3] = torch.tensor(shift, dtype=torch.float64)
    return m


def view_pair(batch, first_to_second):
    moved = batch.xyz.double() @ first_to_second[:3, :3].T + first_to_second[:3, 3]
    second = replace(batch, xyz=moved.float())
    return PairBatch(first=batch, second=second, second_to_first=torch.linalg.inv(first_to_second).expand(2, 4, 4))


GRID_SYMMETRIES = {
    "same": matrix([[1, 0], [0, 1]]),
    "quarter turn": matrix([[0, -1], [1, 0]]),
    "half turn": matrix([[-1, 0], [0, -1]]),
    "flip": matrix([[1, 0], [0, -1]]),
    "turn and flip": matrix([[0, -1], [-1, 0]]),
    "whole cells forward": matrix([[1, 0], [0, 1]], (0.8, -1.2)),
}


@pytest.mark.parametrize("motion", GRID_SYMMETRIES.values(), ids=GRID_SYMMETRIES.keys())
def test_cells_find_their_own_features_under_symmetries_of_the_grid(batch, motion):
    edge = 1e-3  # points on cell borders may round into another cell
    offset = (batch.xyz[:, :2] + 6.4) / 0.4
    inside = ((offset - offset.round()).abs() * 0.4 > edge).all(1)
    batch = replace(batch, xyz=batch.xyz + (~inside)[:, None] * torch.tensor([0.01, 0.01, 0.0]))
    output = make(HeightMap())(view_pair(batch, motion))
    assert float(output.metrics["positive_similarity"]) == pytest.approx(1.0, abs=1e-4)
    wrong = view_pair(batch, motion)
    wrong.second_to_first = matrix([[1, 0], [0, 1]], (2.0, 2.0)).expand(2, 4, 4) @ wrong.second_to_first
    assert float(make(HeightMap())(wrong).metrics["positive_similarity"]) < 0.999


def test_any_turn_scale_and_shift_lands_in_the_right_cell(build, batch):
    """The centre of each first cell, moved by hand, is where the sampling grid points."""
    method = make(HeightMap(), cell_size=0.8)
    angle = 0.7
    motion = matrix([[1.1 * math.cos(angle), 1.1 * math.sin(angle)], [1.1 * math.sin(angle), -1.1 * math.cos(angle)]], (0.9, -2.3))
    warp = method.sampling_grid(torch.linalg.inv(motion)[None], torch.Size((1, 16, 16, 16)))
    for row, column in [(0, 0), (3, 11), (15, 6)]:
        x, y = -6.4 + 0.8 * (column + 0.5), -6.4 + 0.8 * (row + 0.5)
        u, v = (motion[:2, :2] @ torch.tensor([x, y], dtype=torch.float64) + motion[:2, 3]).tolist()
        assert warp[0, row, column].tolist() == pytest.approx([u / 6.4, v / 6.4], abs=1e-5)


def test_resample_averages_over_occupied_neighbours():
    values = torch.arange(16.0).view(1, 1, 4, 4)
    weight = torch.ones(1, 1, 4, 4)
    weight[0, 0, 0, 1] = 0
    place = torch.tensor([[[[-0.5, -0.5], [0.5, 0.5]]]])  # corners between cells (0..1, 0..1) and (2..3, 2..3)
    out, share = resample(values, weight, place)
    assert share.flatten().tolist() == pytest.approx([0.75, 1.0])
    assert out.flatten().tolist() == pytest.approx([(0 + 4 + 5) / 3, (10 + 11 + 14 + 15) / 4])


def test_loss_is_info_nce_over_the_chosen_shared_cells(batch):
    method = make(HeightMap(), max_cells=60)
    pair = view_pair(batch, GRID_SYMMETRIES["whole cells forward"])
    output = method(pair)
    assert output.metrics["cells"] == 60 < output.metrics["shared_cells"]
    first, weight, _ = method.cells(pair.first)
    second, other = resample(*method.cells(pair.second)[:2], method.sampling_grid(pair.second_to_first, first.shape))
    shared = (weight[:, 0] > 0) & (other[:, 0] >= 0.5)
    chosen = method.choose(shared, batch.seeds)
    assert torch.bincount(chosen[:, 0]).tolist() == [30, 30]
    b, y, x = chosen.unbind(1)
    assert shared[b, y, x].all()
    assert output.loss.item() == pytest.approx(info_nce(first[b, :, y, x], second[b, :, y, x], temperature=0.07).item(), rel=1e-5)


def test_cells_are_means_over_occupied_map_cells(batch):
    method = make(HeightMap(), cell_size=0.8)
    assert method.pool == 2
    pooled, weight, rows = method.cells(batch)
    voxels = method.encoder.voxelize(batch)
    assert len(rows) == len(voxels)
    projected = method.projector(method.encoder.encode(voxels).bev)
    for b, y, x in [(0, 3, 5), (1, 8, 8), (0, 12, 2), (1, 5, 10)]:
        mine = [(v[2], v[3]) for v in voxels.coords.tolist() if v[0] == b and v[2] // 2 == y and v[3] // 2 == x]
        assert weight[b, 0, y, x].item() == len(mine) / 4
        if mine:
            torch.testing.assert_close(pooled[b, :, y, x], torch.stack([projected[b, :, i, j] for i, j in mine]).mean(0))


def test_sweeps_that_share_nothing_give_no_loss(batch):
    pair = view_pair(batch, GRID_SYMMETRIES["same"])
    pair.second_to_first = matrix([[1, 0], [0, 1]], (500.0, 0.0)).expand(2, 4, 4)
    output = make(HeightMap())(pair)
    output.loss.backward()
    assert output.loss.item() == 0 and output.metrics["cells"] == 0


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder(build, pair, gradients_reach, name):
    assert gradients_reach(make(build(name)), pair) == []


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_it_learns_a_fixed_pair(build, pair, learn, name):
    before, after = learn(make(build(name)), pair)
    assert after < 0.75 * before


def test_same_seed_same_loss_and_other_seed_another(build, pair):
    def loss(seeds):
        return make(build("pillar"), max_cells=40)(replace(pair, first=replace(pair.first, seeds=seeds))).loss.item()

    assert loss([1, 2]) == loss([1, 2]) != loss([1, 3])
