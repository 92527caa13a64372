"""LeJEPA and SwAV on LiDAR: places match, one a cell; the losses equal their definitions on the encoder's features there."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from suite3d.masking import sub_generator
from suite3d.pointcloud.methods.lidar_lejepa import LidarLeJEPA, LidarLeJEPAConfig
from suite3d.pointcloud.methods.lidar_swav import LidarSwAV, LidarSwAVConfig
from suite3d.pointcloud.methods.matched import matched_places, one_per_cell, unit_keys
from suite3d.pointcloud.methods.units import unit_features, unit_size

ENCODERS = ("sst", "pillar", "voxel", "residual")


def lejepa_method(build, name, **config):
    torch.manual_seed(0)
    return LidarLeJEPA(build(name), LidarLeJEPAConfig(**{"hidden": 32, "dim": 8, "places": 60, "slices": 16} | config))


def swav_method(build, name, **config):
    torch.manual_seed(0)
    return LidarSwAV(build(name), LidarSwAVConfig(**{"hidden": 32, "dim": 16, "places": 60, "prototypes": 6, "frozen_steps": 0} | config))


METHODS = {"lejepa": lejepa_method, "swav": swav_method}


def test_one_row_of_every_cell():
    cell = torch.tensor([5, 5, 9, 9, 9, 2, 5, 7])
    rows = one_per_cell(cell, 10, torch.Generator().manual_seed(0))
    assert sorted(cell[rows].tolist()) == [2, 5, 7, 9]
    picks = [one_per_cell(cell, 2, torch.Generator().manual_seed(seed)) for seed in range(400)]
    counts = torch.bincount(torch.cat([cell[rows] for rows in picks]), minlength=10)
    assert all(len(rows) == 2 for rows in picks) and all(160 <= int(counts[value]) <= 240 for value in (2, 5, 7, 9)), "cells are equally likely"
    assert len({int(rows[cell[rows] == 9][0]) for rows in picks if (cell[rows] == 9).any()}) == 3, "any of its points"
    assert len(one_per_cell(cell[:0], 3, torch.Generator())) == 0


@pytest.mark.parametrize("name", ["pillar", "voxel"])
def test_places_hold_the_same_point_in_both_views(build, pair, name):
    encoder = build(name).eval()
    places = matched_places(encoder, pair, limit=40)
    assert (torch.bincount(places.scan) == 40).all() and len(set(places.points.tolist())) == 80
    size = unit_size(encoder)
    for view, features in ((pair.first, places.first), (pair.second, places.second)):
        voxels = encoder.voxelize(view)
        encoded = encoder.encode(voxels)
        keys = []
        for place, point in enumerate(places.points.tolist()):
            row = int(voxels.point_voxel[voxels.point_index == point])
            unit = voxels.coords[row] // voxels.coords.new_tensor((1, *size))
            torch.testing.assert_close(features[place], unit_features(encoder, encoded, unit[None])[0])
            keys.append(int(unit_keys(voxels, size)[row]))
        if view is pair.first:
            assert len(set(keys)) == 80, "one point a cell"


@pytest.mark.parametrize("name", ["pillar", "voxel"])
def test_lejepa_is_its_definition(build, pair, outputs_of, name):
    method = lejepa_method(build, name, weight=0.3)
    method.after_step(4, 100)
    output, seen = outputs_of(method, pair, "projector")
    z = torch.stack(seen["projector"].chunk(2)).double()
    prediction = ((z.mean(dim=0) - z) ** 2).mean(dim=(0, 2)).mean()
    generator = sub_generator(5, "directions")
    knots = torch.linspace(-5, 5, 17, dtype=torch.float64)
    statistics = []
    for view in z:
        directions = torch.nn.functional.normalize(torch.randn(16, 8, generator=generator), dim=1).double()
        total = 0.0
        for direction in directions:
            x = view @ direction
            gap = [((1j * s * x).exp().mean() - math.exp(-(float(s) ** 2) / 2)).abs() ** 2 * math.exp(-(float(s) ** 2) / 2) for s in knots]
            total += len(x) * float(torch.trapezoid(torch.stack(gap), knots)) / 16
        statistics.append(total)
    gaussian = sum(statistics) / 2
    assert output.metrics["gaussian"].item() == pytest.approx(gaussian, rel=1e-4)
    assert output.loss.item() == pytest.approx(0.7 * prediction.item() + 0.3 * gaussian, rel=1e-4)
    assert int(method.state_dict()["step"]) == 5


@pytest.mark.parametrize("name", ["pillar", "voxel"])
def test_swav_is_its_definition(build, pair, outputs_of, name):
    method = swav_method(build, name)
    output, seen = outputs_of(method, pair, "prototypes")
    scores = seen["prototypes"].double()  # [2, P, 6]
    codes = []
    for view in scores:
        q = (view / 0.05).exp()
        for _ in range(3):
            q = q / q.sum(dim=0, keepdim=True) / q.shape[1] * len(q)
            q = q / q.sum(dim=1, keepdim=True)
        codes.append(q)
    log = (scores / 0.1).log_softmax(dim=2)
    expected = -((codes[0] * log[1]).sum(1).mean() + (codes[1] * log[0]).sum(1).mean()) / 2
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_prototypes_stand_still_first(build, pair):
    method = swav_method(build, "pillar", frozen_steps=2)
    for step, moves in enumerate([False, False, True]):
        method.zero_grad(set_to_none=True)
        method(pair).loss.backward()
        assert (method.prototypes.weight.grad is not None) == moves
        method.after_step(step, 10)
    assert "frozen" in method.state_dict()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder(build, pair, gradients_reach, method, name):
    assert gradients_reach(METHODS[method](build, name), pair, unused=("refine",)) == []


@pytest.mark.parametrize("method", METHODS)
def test_it_learns_a_fixed_pair(build, pair, learn, method):
    before, after = learn(METHODS[method](build, "voxel"), pair)
    assert after < 0.9 * before


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_loss_and_other_seed_another(build, pair, method):
    def loss(seeds):
        return METHODS[method](build, "pillar")(replace(pair, first=replace(pair.first, seeds=seeds))).loss.item()

    assert loss([1, 2]) == loss([1, 2]) != loss([1, 3])


@pytest.mark.parametrize("method", METHODS)
def test_scans_that_share_no_place_still_step(build, pair, method):
    for count in (0, 1):
        rows = torch.arange(count)
        model = METHODS[method](build, "pillar")
        output = model(replace(pair, first_rows=rows, second_rows=rows, regions=None))
        output.loss.backward()
        assert output.loss.item() == 0
        assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_bad_input_is_refused(build, pair):
    for method in METHODS.values():
        with pytest.raises(ValueError, match="matched points"):
            method(build, "pillar")(replace(pair, first_rows=None))
        with pytest.raises(ValueError, match="places"):
            method(build, "pillar", places=1)
    with pytest.raises(ValueError, match="weight"):
        LidarLeJEPAConfig(weight=1.5)
    with pytest.raises(ValueError, match="temperature"):
        LidarSwAVConfig(temperature=0)
