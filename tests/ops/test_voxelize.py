"""Voxelisation against a loop over the points, and compiled against reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import compiled, dynamic_voxelize, grid_cells, hard_voxelize, use_reference

RANGE, SIZE = (-2.0, -1.0, -1.0, 2.0, 1.0, 1.0), (0.25, 0.25, 0.5)


def loop_voxels(xyz, offsets, point_range, voxel_size):
    """{(batch, z, y, x): [point rows]} by the definition, one point at a time in float32."""
    start, size = np.float32(point_range[:3]), np.float32(voxel_size)
    cells = grid_cells(point_range, voxel_size)
    voxels: dict[tuple[int, ...], list[int]] = {}
    for scan in range(len(offsets) - 1):
        for row in range(int(offsets[scan]), int(offsets[scan + 1])):
            place = np.floor((xyz[row].numpy() - start) / size)
            if all(0 <= place[axis] < cells[axis] for axis in range(3)):
                voxels.setdefault((scan, int(place[2]), int(place[1]), int(place[0])), []).append(row)
    return dict(sorted(voxels.items()))


def scene(count, generator):
    xyz = torch.rand(count, 3, generator=generator) * 5 - 2.5
    return xyz, torch.tensor([0, count // 3, count // 3, count])  # the middle scan is empty


@pytest.mark.parametrize("count", [0, 1, 7, 400])
def test_dynamic_is_the_loop(count, backend, generator):
    xyz, offsets = scene(count, generator)
    expected = loop_voxels(xyz, offsets, RANGE, SIZE)
    coords, point_voxel, order = dynamic_voxelize(xyz, offsets, RANGE, SIZE)
    assert [tuple(c) for c in coords.tolist()] == list(expected)
    assert order.tolist() == [row for rows in expected.values() for row in rows]
    assert point_voxel.tolist() == [v for v, rows in enumerate(expected.values()) for _ in rows]
    assert coords.dtype == torch.int32 and point_voxel.dtype == torch.int64 and order.dtype == torch.int64


def test_keys_of_61_bits(backend):
    """The most that a grid may have: cells at its far ends come out in order."""
    half = 2.0**23
    point_range = (-half, -half, -(2.0**12), half, half, 2.0**12)
    xyz = torch.tensor([[half - 1, half - 1, 4095.0], [0, 0, 0], [-half, -half, -4096], [half - 1, half - 1, 4095]])
    coords, point_voxel, order = dynamic_voxelize(xyz, torch.tensor([0, 4]), point_range, (1, 1, 1))
    assert coords.tolist() == [[0, 0, 0, 0], [0, 4096, 2**23, 2**23], [0, 8191, 2**24 - 1, 2**24 - 1]]
    assert point_voxel.tolist() == [0, 1, 2, 2] and order.tolist() == [2, 1, 0, 3]


@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 1), (2, 10), (3, 1000), (100, 30)])
def test_hard_is_the_loop(max_points, max_voxels, backend, generator):
    xyz, offsets = scene(300, generator)
    feats = torch.rand(300, 2, generator=generator)
    by_cell = loop_voxels(xyz, offsets, RANGE, SIZE)
    kept = []
    for scan in range(3):
        touched = sorted((cell for cell in by_cell if cell[0] == scan), key=lambda cell: by_cell[cell][0])
        kept += touched[:max_voxels]
    kept.sort()
    coords, voxels, counts = hard_voxelize(xyz, feats, offsets, RANGE, SIZE, max_points=max_points, max_voxels=max_voxels)
    assert [tuple(c) for c in coords.tolist()] == kept
    for cell, voxel, count in zip(kept, voxels, counts.tolist(), strict=True):
        rows = by_cell[cell][:max_points]
        assert count == len(rows)
        assert torch.equal(voxel[:count], torch.cat([xyz, feats], dim=1)[rows])
        assert not voxel[count:].any()


@pytest.mark.parametrize(
    "size", [(0.25, 0.25, 0.5), (4.0, 2.0, 2.0), (1e-3, 1e-3, 1e-3), (1e-4, 1e-5, 1e-5)], ids=["coarse", "one cell", "33 bits", "wide keys"]
)
def test_parity_at_every_key_width(size, same, compiled_cpu, generator):
    xyz, offsets = scene(30000, generator)
    xyz[17] = torch.nan
    xyz[18, 1] = torch.inf
    xyz[19] = torch.tensor([-2.0, -1.0, -1.0])  # the lower corner is inside, the upper is not
    xyz[20] = torch.tensor([2.0, 1.0, 1.0])
    xyz[21] = torch.tensor([-0.0, -0.0, -0.0])
    feats = torch.rand(30000, 1, generator=generator)
    same(lambda: dynamic_voxelize(xyz, offsets, RANGE, size))
    same(lambda: hard_voxelize(xyz, feats, offsets, RANGE, size, max_points=2, max_voxels=500))


@pytest.mark.parametrize("size", [(0.01, 0.01, 0.02), (1e-3, 1e-3, 1e-3), (1e-4, 1e-5, 1e-5)], ids=["18 bits", "33 bits", "wide keys"])
def test_parity_where_most_points_lie_together(size, same, compiled_cpu, generator):
    """A corner holds nine points of ten: one value of the uppermost bits of the cells has more points than a stretch should."""
    xyz, offsets = scene(40000, generator)
    xyz[torch.rand(40000, generator=generator) < 0.9] *= 0.01
    same(lambda: dynamic_voxelize(xyz, offsets, RANGE, size))


@pytest.mark.parametrize("count", [40, 40000])
def test_every_point_out_of_range(count, same, compiled_cpu):
    """More than one thread's share of points, none of which is in a voxel."""
    xyz, offsets = torch.full((count, 3), 99.0), torch.tensor([0, count])
    same(lambda: dynamic_voxelize(xyz, offsets, RANGE, SIZE))
    assert [len(found) for found in dynamic_voxelize(xyz, offsets, RANGE, SIZE)] == [0, 0, 0]
    same(lambda: hard_voxelize(xyz, xyz[:, :1], offsets, RANGE, SIZE, max_points=2, max_voxels=500))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parity_on_points_at_cell_borders(data):
    """Coordinates on and next to multiples of the voxel size, where a reciprocal or float64 would put them elsewhere."""
    if not compiled("cpu"):
        pytest.skip("needs the compiled ops")
    steps = data.draw(st.lists(st.tuples(*[st.integers(-4, 44)] * 3, st.sampled_from([-1, 0, 1])), min_size=0, max_size=40))
    base = np.array([s[:3] for s in steps], dtype=np.float32).reshape(-1, 3) * np.float32(0.05)
    nudge = np.array([s[3] for s in steps], dtype=np.float32).reshape(-1, 1)
    xyz = torch.from_numpy(np.where(nudge == 0, base, np.nextafter(base, base + nudge)).astype(np.float32))
    cut = data.draw(st.integers(0, len(xyz)))
    arguments = (xyz, torch.tensor([0, cut, len(xyz)]), (0.0, 0.0, 0.0, 2.0, 2.0, 2.0), (0.05, 0.05, 0.1))
    found = dynamic_voxelize(*arguments)
    with use_reference():
        expected = dynamic_voxelize(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert [tuple(c) for c in found[0].tolist()] == list(loop_voxels(*arguments))


def test_strided_input_and_no_scan(backend, generator):
    points = torch.rand(50, 5, generator=generator)
    offsets = torch.tensor([0, 50])
    found = dynamic_voxelize(points[:, :3], offsets, RANGE, SIZE)
    assert all(torch.equal(a, b) for a, b in zip(found, dynamic_voxelize(points[:, :3].contiguous(), offsets, RANGE, SIZE), strict=True))
    coords, point_voxel, order = dynamic_voxelize(torch.zeros(0, 3), torch.tensor([0]), RANGE, SIZE)
    assert coords.shape == (0, 4) and len(point_voxel) == len(order) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xyz": torch.zeros(4, 2)}, r"xyz: expected shape \(\*, 3\), got \(4, 2\)"),
        ({"xyz": torch.zeros(4, 3, dtype=torch.float64)}, "xyz: expected float32, got float64"),
        ({"offsets": torch.tensor([0, 3])}, "0 to the 4 rows, got 0 to 3"),
        ({"offsets": torch.tensor([0, 4], device="meta")}, "one device, got xyz on cpu, offsets on meta"),
        ({"offsets": torch.tensor([0, 3, 2, 4])}, "non-decreasing"),
        ({"offsets": torch.tensor([0, 4], dtype=torch.int32)}, "offsets: expected int64"),
        ({"voxel_size": (0.3, 0.25, 0.5)}, "whole number of voxels of 0.3"),
        ({"voxel_size": (0.0, 0.25, 0.5)}, "3 positive numbers"),
        ({"point_range": (2.0, -1.0, -1.0, -2.0, 1.0, 1.0)}, "along x"),
        ({"voxel_size": (4 / 2**24, 2 / 2**24, 2 / 2**24)}, "at most 61 bits"),
        ({"voxel_size": (4 / 2**25, 0.25, 0.5)}, "2\\^24"),
    ],
)
def test_says_what_is_wrong(change, message):
    arguments = {"xyz": torch.zeros(4, 3), "offsets": torch.tensor([0, 4]), "point_range": RANGE, "voxel_size": SIZE} | change
    with pytest.raises(ValueError, match=message):
        dynamic_voxelize(**arguments)


@pytest.mark.parametrize(
    ("feats", "message"),
    [
        (torch.zeros(3, 1), r"feats: expected shape \(4, \*\), got \(3, 1\)"),
        (torch.zeros(4, 1, dtype=torch.float64), "feats: expected float32, got float64"),
        (torch.zeros(4, 1, device="meta"), "one device, got xyz on cpu, feats on meta"),
    ],
)
def test_says_what_is_wrong_with_feats(feats, message):
    with pytest.raises(ValueError, match=message):
        hard_voxelize(torch.zeros(4, 3), feats, torch.tensor([0, 4]), RANGE, SIZE, max_points=1, max_voxels=1)


def test_compiles_into_one_graph(compiled_cpu, generator):
    xyz, offsets = scene(100, generator)
    traced = torch.compile(lambda p: dynamic_voxelize(p, offsets, RANGE, SIZE), fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(traced(xyz), dynamic_voxelize(xyz, offsets, RANGE, SIZE), strict=True))
