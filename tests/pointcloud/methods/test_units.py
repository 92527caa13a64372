"""Mask units: grouping, reading, faking, collapsing, each against plain loops."""

from __future__ import annotations

import pytest
import torch

from suite3d.masking import generators_of
from suite3d.pointcloud.methods.units import collapse, empty_units, group_units, limit_points, unit_features, unit_size


def grouped(build, name, batch):
    encoder = build(name)
    return encoder, group_units(encoder.voxelize(batch), unit_size(encoder))


@pytest.mark.parametrize(("name", "size"), [("sst", (1, 1, 1)), ("voxel", (32, 8, 8))])
def test_units_hold_the_points_that_lie_in_them(build, batch, name, size):
    encoder, units = grouped(build, name, batch)
    assert units.size == size
    cell = torch.tensor([encoder.grid.voxel_size[a] * size[2 - a] for a in range(3)], dtype=torch.float64)
    start = torch.tensor(encoder.grid.point_range[:3], dtype=torch.float64)
    expected = {}
    for row, (point, scan) in enumerate(zip(batch.xyz.double(), batch.batch_index().tolist())):
        place = ((point - start) / cell).floor().long().tolist()
        if all(0 <= p < s for p, s in zip(place, units.shape[::-1])):
            expected.setdefault((scan, *place[::-1]), []).append(row)
    assert [tuple(c) for c in units.coords.tolist()] == sorted(expected)
    chosen = torch.zeros(len(units), dtype=torch.bool)
    chosen[::3] = True
    rows, offsets = units.points_of(chosen)
    rows = units.voxels.point_index[rows]
    for coords, a, b in zip(units.coords[chosen].tolist(), offsets[:-1].tolist(), offsets[1:].tolist()):
        assert sorted(rows[a:b].tolist()) == expected[tuple(coords)]
    offset = (batch.xyz[units.voxels.point_index] - units.centers()[units.point_unit]).abs()
    assert (offset <= units.half_size() + 1e-4).all()
    assert units.offsets().tolist() == [0, sum(c[0] == 0 for c in expected), len(expected)]


def test_visible_voxels_are_those_of_the_other_units(build, batch):
    _, units = grouped(build, "voxel", batch)
    hidden = torch.arange(len(units)) % 2 == 0
    visible = units.visible_voxels(hidden)
    seen = {tuple(c) for c in (visible.coords // torch.tensor([1, 32, 8, 8])).tolist()}
    assert seen == {tuple(c) for c in units.coords[~hidden].tolist()}


def test_unit_features_read_the_map_at_the_unit(build, batch):
    encoder, units = grouped(build, "voxel", batch)
    features = encoder.encode(units.voxels)
    read = unit_features(encoder, features, units.coords)
    for row in (0, 7, len(units) - 1):
        b, _, y, x = units.coords[row].tolist()
        assert torch.equal(read[row], features.bev[b, :, y, x])


def test_limit_points_takes_a_random_part_of_full_sets_only():
    rows, offsets = torch.arange(100, 130), torch.tensor([0, 3, 25, 30])
    kept, limits = limit_points(rows, offsets, 5, torch.Generator().manual_seed(0))
    assert limits.tolist() == [0, 3, 8, 13]
    assert kept[:3].tolist() == [100, 101, 102] and kept[8:].tolist() == [125, 126, 127, 128, 129]
    assert len(set(kept.tolist())) == 13 and all(103 <= r < 125 for r in kept[3:8].tolist())
    draws = {tuple(limit_points(rows, offsets, 5, torch.Generator().manual_seed(s))[0].tolist()) for s in range(20)}
    assert len(draws) > 15


@pytest.mark.parametrize("reach", [0, 2])
def test_empty_units_are_empty_distinct_and_as_many_as_asked(build, batch, reach):
    _, units = grouped(build, "sst", batch)
    fakes = empty_units(units, 0.3, reach, generators_of(batch.seeds, "f"))
    occupied = {tuple(c) for c in units.coords.tolist()}
    found = [tuple(c) for c in fakes.tolist()]
    assert len(set(found)) == len(found) and not occupied & set(found) and found == sorted(found)
    for scan, number in enumerate(units.offsets().diff().tolist()):
        mine = [c for c in found if c[0] == scan]
        assert len(mine) == int(0.3 * number + 0.5)
        if reach:
            assert all(any(o[0] == scan and max(abs(a - b) for a, b in zip(o, c)) <= reach for o in occupied) for c in mine)
    assert (fakes[:, 1:] >= 0).all() and (fakes[:, 1:] < torch.tensor(units.shape)).all()
    assert torch.equal(fakes, empty_units(units, 0.3, reach, generators_of(batch.seeds, "f")))


@pytest.mark.parametrize("name", ["sst", "voxel"])
def test_collapse_leaves_one_point_of_each_chosen_unit(build, batch, name):
    _, units = grouped(build, name, batch)
    chosen = torch.arange(len(units)) % 4 == 1
    shown, unit = collapse(units, chosen, generators_of(batch.seeds, "k"))
    counts = torch.bincount(unit[shown.point_voxel], minlength=len(units))
    full = torch.bincount(units.point_unit, minlength=len(units))
    assert (counts[chosen] == 1).all() and torch.equal(counts[~chosen], full[~chosen])
    assert torch.equal(batch.xyz[shown.point_index], shown.xyz)
    assert torch.equal(torch.bincount(shown.point_voxel), shown.counts)
    kept = {tuple(collapse(units, chosen, generators_of([s, s], "k"))[0].point_index.tolist()) for s in range(10)}
    assert len(kept) == 10
