"""Voxel-MAE: its three terms as loops, nothing hidden gets through, and it learns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from suite3d.masking import generators_of, random_mask
from suite3d.pointcloud.methods.decoder import WindowDecoderConfig
from suite3d.pointcloud.methods.units import empty_units, group_units
from suite3d.pointcloud.methods.voxel_mae import VoxelMAE, VoxelMAEConfig

ENCODERS = ("sst", "pillar", "voxel", "residual")
SMALL = WindowDecoderConfig(dim=32, heads=4, layers=2, feedforward=48, window=(8, 8, 1))


def make(build, name, **config):
    torch.manual_seed(0)
    return VoxelMAE(build(name), VoxelMAEConfig(decoder=SMALL, **config))


def masked_units(method, batch):
    units = group_units(method.encoder.voxelize(batch), method.unit)
    return units, random_mask(units.offsets(), method.config.mask_ratio, generators_of(batch.seeds, "voxel_mae/mask"))


@pytest.mark.parametrize("name", ENCODERS)
def test_loss_is_the_formula(build, batch, outputs_of, name):
    method = make(build, name, occupied_weight=2.0, count_weight=0.5, chamfer_weight=3.0)
    output, seen = outputs_of(method, batch, "occupied_head", "count_head", "point_head")
    units, hidden = masked_units(method, batch)
    fakes = empty_units(units, 0.1, 0, generators_of(batch.seeds, "voxel_mae/fakes"))
    assert len(seen["occupied_head"]) == int(hidden.sum()) + len(fakes) and len(seen["point_head"]) == int(hidden.sum())
    bce = [math.log1p(math.exp(-v if row < int(hidden.sum()) else v)) for row, v in enumerate(seen["occupied_head"][:, 0].tolist())]
    count, chamfer = [], []
    for row, unit in enumerate(hidden.nonzero()[:, 0].tolist()):
        points = units.voxels.xyz[units.point_unit == unit].double()
        error = abs(seen["count_head"][row, 0].item() - len(points))
        count.append(error**2 / 2 if error < 1 else error - 0.5)
        points = ((points - units.centers()[unit]) / units.half_size()).numpy()
        assert np.abs(points).max() <= 1 + 1e-3
        distance = ((seen["point_head"][row].view(-1, 3).double().numpy()[:, None] - points[None]) ** 2).sum(-1)
        assert distance.shape[0] == 10
        chamfer.append(distance.min(0).mean() + distance.min(1).mean())
    parts = {"occupied": np.mean(bce), "count": np.mean(count), "chamfer": np.mean(chamfer)}
    for key, value in parts.items():
        assert float(output.metrics[key]) == pytest.approx(value, rel=1e-4)
    assert output.loss.item() == pytest.approx(2 * parts["occupied"] + 0.5 * parts["count"] + 3 * parts["chamfer"], rel=1e-4)


def test_mask_hides_exactly_seventy_percent_of_the_units(build, batch):
    method = make(build, "sst")
    units, hidden = masked_units(method, batch)
    lengths = units.offsets().diff().tolist()
    assert float(method(batch).metrics["hidden_units"]) == sum(int(0.7 * n + 0.5) for n in lengths) == int(hidden.sum())


@pytest.mark.parametrize("name", ENCODERS)
def test_moving_hidden_points_changes_the_target_only(build, batch, outputs_of, name):
    method = make(build, name)
    units, hidden = masked_units(method, batch)
    inside = hidden[units.point_unit]
    place = torch.rand(int(inside.sum()), 3, generator=torch.Generator().manual_seed(9)) * 1.8 - 0.9
    moved = batch.xyz.clone()
    moved[units.voxels.point_index[inside]] = units.centers()[units.point_unit[inside]] + place * units.half_size()
    feats = batch.feats.clone()
    feats[units.voxels.point_index[inside]] += 1.0
    heads = ("occupied_head", "count_head", "point_head")
    before, seen = outputs_of(method, batch, *heads)
    after, again = outputs_of(method, replace(batch, xyz=moved, feats=feats), *heads)
    assert all(torch.equal(seen[head], again[head]) for head in heads)
    assert torch.equal(before.features, after.features)
    assert abs(float(before.metrics["chamfer"] - after.metrics["chamfer"])) > 1e-3


@pytest.mark.parametrize("name", ENCODERS)
def test_a_query_reads_its_visible_neighbourhood(build, batch, outputs_of, name):
    method = make(build, name)
    units, hidden = masked_units(method, batch)
    visible = batch.feats.clone()
    shown = units.voxels.point_index[~hidden[units.point_unit]]
    visible[shown] = torch.rand(len(shown), 1, generator=torch.Generator().manual_seed(4)) * 4
    _, seen = outputs_of(method, batch, "point_head")
    _, again = outputs_of(method, replace(batch, feats=visible), "point_head")
    assert ((seen["point_head"] - again["point_head"]).abs().amax(1) > 1e-6).float().mean() > 0.9


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder(build, batch, gradients_reach, name):
    assert gradients_reach(make(build, name), batch, unused=("refine",)) == []


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_it_learns_a_fixed_scan(build, batch, learn, name):
    before, after = learn(make(build, name), batch)
    assert after < 0.75 * before


def test_same_seed_same_loss_and_other_seed_another(build, batch):
    losses = [make(build, "pillar")(replace(batch, seeds=seeds)).loss.item() for seeds in ([1, 2], [1, 2], [1, 3])]
    assert losses[0] == losses[1] != losses[2]


def test_a_scan_out_of_range_takes_no_part(build, batch):
    far = batch.xyz.clone()
    far[420:] += 1000.0
    output = make(build, "sst")(replace(batch, xyz=far))
    assert torch.isfinite(output.loss) and output.metrics["hidden_units"] > 0


def test_a_ratio_that_hides_everything_is_refused_before_the_first_batch():
    with pytest.raises(ValueError, match="mask ratio"):
        VoxelMAEConfig(mask_ratio=1.0)


def test_block_masks_hide_regions_of_the_same_share(build, batch):
    method, twin = make(build, "sst", mask="block", block_size=(3.2, 3.2, 6.0)), make(build, "sst")
    units = group_units(method.encoder.voxelize(batch), method.unit)
    hidden, scattered = method.draw_mask(units, batch.seeds), twin.draw_mask(units, batch.seeds)
    lengths = units.offsets().diff().tolist()
    assert [int(part.sum()) for part in hidden.split(lengths)] == [int(0.7 * n + 0.5) for n in lengths]
    assert torch.equal(hidden, method.draw_mask(units, batch.seeds)) and not torch.equal(hidden, method.draw_mask(units, [5, 6]))

    def alike(mask):  # share of units whose nearest other unit of the scan is in the same state
        shares = []
        for part, places in zip(mask.split(lengths), units.centers().split(lengths)):
            nearest = torch.cdist(places, places).fill_diagonal_(torch.inf).argmin(dim=1)
            shares.append((part == part[nearest]).float().mean())
        return float(torch.stack(shares).mean())

    assert alike(hidden) > alike(scattered) + 0.15


@pytest.mark.parametrize("name", ("sst", "voxel"))
def test_it_learns_with_block_masks(build, batch, learn, name):
    method = make(build, name, mask="block", block_size=(3.2, 3.2, 6.0))
    before, after = learn(method, batch)
    assert after < 0.75 * before


def test_a_block_without_extent_is_refused():
    with pytest.raises(ValueError, match="block_size"):
        VoxelMAEConfig(mask="block", block_size=(1.0, 0.0, 1.0))
