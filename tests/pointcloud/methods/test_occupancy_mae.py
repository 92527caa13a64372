"""Occupancy-MAE: bands in metres, the dense target and loss as loops, strips that change nothing, nothing hidden gets through."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.masking import generators_of, hidden_count, range_mask
from suite3d.pointcloud.methods.occupancy_mae import OccupancyMAE, OccupancyMAEConfig

ENCODERS = ("sst", "pillar", "voxel", "residual")
BANDS = {"band_edges": (3.0, 5.0), "band_ratios": (0.8, 0.6, 0.4)}


def make(build, name, **config):
    torch.manual_seed(0)
    return OccupancyMAE(build(name), OccupancyMAEConfig(**{**BANDS, "width": 16, **config}))


def masked(method, batch):
    voxels = method.encoder.voxelize(batch)
    distance = voxels.centers()[:, :2].norm(dim=1)
    hidden = range_mask(distance, voxels.offsets(), (3.0, 5.0), (0.8, 0.6, 0.4), generators_of(batch.seeds, "occupancy_mae/mask"))
    return voxels, distance, hidden


def test_near_voxels_are_hidden_more_than_far_ones(build, batch):
    method = make(build, "sst")
    voxels, distance, hidden = masked(method, batch)
    for scan in (0, 1):
        for (low, high), ratio in zip([(0, 3), (3, 5), (5, math.inf)], (0.8, 0.6, 0.4)):
            band = (voxels.coords[:, 0] == scan) & (distance >= low) & (distance < high)
            assert int(hidden[band].sum()) == hidden_count(int(band.sum()), ratio)
    output = method(batch)
    assert output.metrics["hidden_share"] == pytest.approx(float(hidden.float().mean()))
    assert len(output.features) == int((~hidden).sum())


def slow_target(method, batch, cell):
    """Occupied cells of the target grid straight from the points."""
    low, high = (torch.tensor(v, dtype=torch.float64) for v in (method.encoder.grid.point_range[:3], method.encoder.grid.point_range[3:]))
    occupied = torch.zeros(2, *method.shape)
    for point, scan in zip(batch.xyz.double(), batch.batch_index().tolist()):
        if ((point >= low) & (point < high)).all():
            x, y, z = ((point - low) / torch.tensor(cell, dtype=torch.float64)).floor().long().tolist()
            occupied[scan, z, y, x] = 1
    return occupied


@pytest.mark.parametrize(
    ("name", "stride", "cell", "shape"),
    [
        ("sst", 4, (0.4, 0.4, 0.6), (8, 32, 32)),
        ("voxel", 4, (0.4, 0.4, 0.6), (8, 32, 32)),
        ("voxel", 8, (0.8, 0.8, 1.2), (4, 16, 16)),
        ("residual", 2, (0.2, 0.2, 0.3), (16, 64, 64)),
    ],
)
def test_loss_is_the_mean_over_the_whole_dense_grid(build, batch, outputs_of, name, stride, cell, shape):
    method = make(build, name, target_stride=stride)
    assert method.shape == shape
    output, seen = outputs_of(method, batch, "decoder.stem")
    logits = method.decoder.volume(seen["decoder.stem"]).double()
    occupied = slow_target(method, batch, cell)
    assert logits.shape == occupied.shape
    slow = -(occupied * logits.sigmoid().log() + (1 - occupied) * (1 - logits.sigmoid()).log()).mean()
    assert output.loss.item() == pytest.approx(slow.item(), rel=1e-4)
    assert output.metrics["occupied_share"] == pytest.approx(occupied.mean().item(), rel=1e-5)
    called = logits > 0
    assert float(output.metrics["recall"]) == pytest.approx((called & (occupied > 0)).sum().item() / occupied.sum().item(), abs=1e-6)


def test_strips_change_neither_loss_nor_gradient(build, batch):
    results = []
    for cells in (1, 40_000, 1 << 30):
        method = make(build, "voxel", strip_cells=cells)
        loss = method(batch).loss
        loss.backward()
        results.append((loss.detach(), [p.grad for p in method.parameters()]))
    for loss, gradients in results[1:]:
        torch.testing.assert_close(loss, results[0][0], rtol=1e-5, atol=1e-6)
        for a, b in zip(gradients, results[0][1]):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ENCODERS)
def test_moving_hidden_points_changes_the_target_only(build, batch, outputs_of, name):
    method = make(build, name)
    voxels, _, hidden = masked(method, batch)
    inside = hidden[voxels.point_voxel]
    half = torch.tensor(voxels.grid.voxel_size) / 2
    place = torch.rand(int(inside.sum()), 3, generator=torch.Generator().manual_seed(9)) * 1.8 - 0.9
    moved, feats = batch.xyz.clone(), batch.feats.clone()
    moved[voxels.point_index[inside]] = voxels.centers()[voxels.point_voxel[inside]] + place * half
    feats[voxels.point_index[inside]] = 7.0
    before, seen = outputs_of(method, batch, "decoder.stem")
    after, again = outputs_of(method, replace(batch, xyz=moved, feats=feats), "decoder.stem")
    assert torch.equal(seen["decoder.stem"], again["decoder.stem"]) and torch.equal(before.features, after.features)
    if name in ("sst", "pillar"):  # the target resolves heights that the mask does not
        assert before.loss.item() != after.loss.item()


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder(build, batch, gradients_reach, name):
    assert gradients_reach(make(build, name), batch) == []


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_it_learns_a_fixed_scan(build, batch, learn, name):
    before, after = learn(make(build, name), batch)
    assert after < 0.7 * before


def test_same_seed_same_loss_and_other_seed_another(build, batch):
    losses = [make(build, "pillar")(replace(batch, seeds=seeds)).loss.item() for seeds in ([1, 2], [1, 2], [1, 3])]
    assert losses[0] == losses[1] != losses[2]


def test_strides_and_bands_that_cannot_work_are_refused(build):
    for stride in (3, 0, -4):
        with pytest.raises(ValueError, match="power of two"):
            make(build, "voxel", target_stride=stride)
    with pytest.raises(ValueError, match="ratios"):
        OccupancyMAEConfig(band_edges=(30.0,))
