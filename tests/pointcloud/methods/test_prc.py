"""PRC: which points are compared, by which features, with which loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from suite3d.losses.region_info_nce import point_level_region_loss, region_aware_point_loss
from suite3d.pointcloud.methods.prc import PRC, PRCConfig, voxel_of_point

ENCODERS = ("sst", "pillar", "voxel", "residual")


def make(build, name, **config):
    torch.manual_seed(0)
    return PRC(build(name), PRCConfig(**{"hidden": 32, "dim": 16, "rich_points": 100, "poor_points": 30, **config}))


def test_points_are_drawn_by_kind_scan_and_range(build, pair):
    method = make(build, "sst", rich_points=50, poor_points=20)
    in_range = torch.zeros(len(pair.first.xyz), dtype=torch.bool)
    in_range[method.encoder.voxelize(pair.first).point_index] = True
    scan = pair.first.batch_index()
    chosen = method.choose(in_range, pair.regions, scan, pair.seeds)
    assert len(set(chosen.tolist())) == len(chosen) and in_range[chosen].all()
    for b in (0, 1):
        mine = chosen[scan[chosen] == b]
        assert int((pair.regions[mine] >= 0).sum()) == 50 and int((pair.regions[mine] < 0).sum()) == 20


def test_voxel_of_point_agrees_with_the_grid(build, batch):
    encoder = build("pillar")
    voxels = encoder.voxelize(batch)
    row = voxel_of_point(voxels, len(batch.xyz))
    place = ((batch.xyz[:, :2].double() + 6.4) / 0.4).floor().long()
    for point in range(0, len(batch.xyz), 13):
        if row[point] >= 0:
            assert voxels.coords[row[point], [3, 2]].tolist() == place[point].tolist()
        else:
            z = batch.xyz[point, 2].item()
            assert place[point].min() < 0 or place[point].max() > 31 or not -2 <= z < 2.8


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_loss_is_the_weighted_sum_over_the_points_own_features(build, pair, outputs_of, name):
    method = make(build, name, alpha=0.3)
    output = method(pair)
    first, second = method.encoder.voxelize(pair.first), method.encoder.voxelize(pair.second)
    rows = [voxel_of_point(v, len(b.xyz)) for v, b in ((first, pair.first), (second, pair.second))]
    chosen = method.choose((rows[0] >= 0) & (rows[1] >= 0), pair.regions, pair.first.batch_index(), pair.seeds)
    queries = method.projector(method.encoder.encode(first).hypercolumn(first.coords)[rows[0][chosen]])
    keys = method.projector(method.encoder.encode(second).hypercolumn(second.coords)[rows[1][chosen]])
    plrc, rapc = (loss(queries, keys, pair.regions[chosen], temperature=0.07) for loss in (point_level_region_loss, region_aware_point_loss))
    assert output.loss.item() == pytest.approx((0.3 * plrc + 0.7 * rapc).item(), rel=1e-4)
    assert output.metrics["rich_points"] == 200 and output.metrics["poor_points"] == 60


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_encoder(build, pair, gradients_reach, name):
    assert gradients_reach(make(build, name), pair, unused=("refine",)) == []


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_it_learns_a_fixed_pair(build, pair, learn, name):
    before, after = learn(make(build, name, rich_points=60), pair)
    assert after < 0.85 * before


def test_same_seed_same_loss_and_other_seed_another(build, pair):
    def loss(seeds):
        return make(build, "pillar")(replace(pair, first=replace(pair.first, seeds=seeds))).loss.item()

    assert loss([1, 2]) == loss([1, 2]) != loss([1, 3])


def test_pairs_without_regions_are_refused(build, pair):
    with pytest.raises(ValueError, match="regions"):
        make(build, "pillar")(replace(pair, regions=None))
    with pytest.raises(ValueError, match="alpha"):
        PRCConfig(alpha=1.5)


def test_a_scan_without_regions_or_shared_points_still_steps(build, pair):
    method = make(build, "pillar")
    assert torch.isfinite(method(replace(pair, regions=torch.full_like(pair.regions, -1))).loss)
    none = torch.zeros(0, dtype=torch.int64)
    loss = method(replace(pair, first_rows=none, second_rows=none, regions=none)).loss
    loss.backward()
    assert loss.item() == 0
