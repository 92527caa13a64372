"""Ray traversal: what every walk must satisfy, exact rational geometry, and compiled against reference."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from suite3d.ops import dynamic_voxelize, traverse_voxels, use_reference

RANGE, SIZE, CELLS = (-2.0, -1.0, 0.0, 2.0, 1.0, 3.0), (0.5, 0.25, 1.0), (8, 8, 3)
UNIT, ONE = (0.0, 0.0, 0.0, 4.0, 4.0, 4.0), (1.0, 1.0, 1.0)


def walk(origin, end, **options):
    coords, offsets, spans = traverse_voxels(torch.tensor([origin]), torch.tensor([end]), UNIT, ONE, **options)
    assert offsets.tolist() == [0, len(coords)] and bool((coords[:, 0] == 0).all())
    return [tuple(row) for row in coords[:, [3, 2, 1]].tolist()], spans


def exact_walk(origin, end, cells):
    """Every cell of the segment in rational arithmetic, between the points as cells: floor of a point just after each crossing."""
    a, b = ([Fraction(float(v)) for v in p] for p in (origin, end))
    events = []
    for axis in range(3):
        first, last = math.floor(a[axis]), math.floor(b[axis])
        planes = range(first + 1, last + 1) if last >= first else range(first, last, -1)
        events += [((Fraction(p) - a[axis]) / (b[axis] - a[axis]), axis, 1 if last > first else -1) for p in planes]
    cell, found = [math.floor(v) for v in a], []
    for parameter, axis, step in [(Fraction(0), 0, 0), *sorted(events)]:
        cell[axis] += step
        if step != 0 and found:
            found[-1][1][1] = parameter
        found.append((tuple(cell), [parameter, Fraction(1)]))
    return [(c, s) for c, s in found if all(0 <= v < n for v, n in zip(c, cells, strict=True))]


def test_known_walks(backend):
    assert walk((0.5, 0.5, 0.5), (3.5, 0.5, 0.5))[0] == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]
    assert walk((3.5, 0.5, 0.5), (0.5, 0.5, 0.5))[0] == [(3, 0, 0), (2, 0, 0), (1, 0, 0), (0, 0, 0)]
    cells, spans = walk((0.5, 0.5, 0.5), (2.5, 1.5, 0.5))
    assert cells == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (2, 1, 0)]
    assert spans.tolist() == [[0.0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1.0]]
    # through a corner: x, then y, then z, without length in between
    cells, spans = walk((0.5, 0.5, 0.5), (1.5, 1.5, 1.5))
    assert cells == [(0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 1, 1)] and spans.diff(dim=1).flatten().tolist() == [0.5, 0, 0, 0.5]
    # across the whole grid from outside, and along it outside
    assert walk((-9.0, 1.5, 1.5), (9.0, 1.5, 1.5))[0] == [(x, 1, 1) for x in range(4)]
    assert walk((-9.0, 4.5, 1.5), (9.0, 4.5, 1.5))[0] == [] == walk((5.0, 1.0, 1.0), (9.0, 1.0, 1.0))[0]
    assert walk((-1.0, 0.5, 1.5), (1.0, -1.5, 1.5))[0] == []  # through x < 0 and y < 0, by the corner
    assert walk((-1.0, 1.5, 1.5), (1.0, -0.5, 1.5))[0] == [(0, 0, 1)]  # by the corner (0, 0.5): x crosses 0 first
    cells, spans = walk((1.5, 2.5, 3.5), (1.5, 2.5, 3.5))  # a point
    assert cells == [(1, 2, 3)] and spans.tolist() == [[0.0, 1.0]]


def test_faces_belong_to_the_upper_cell(backend):
    assert walk((0.5, 0.0, 0.0), (2.0, 0.0, 0.0))[0] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]  # the end is in cell 2
    assert walk((2.0, 0.0, 0.0), (0.5, 0.0, 0.0))[0] == [(2, 0, 0), (1, 0, 0), (0, 0, 0)]
    assert walk((2.0, 1.0, 1.0), (2.0, 3.0, 1.0))[0] == [(2, 1, 1), (2, 2, 1), (2, 3, 1)]  # along a face
    assert walk((3.5, 0.0, 0.0), (4.0, 0.0, 0.0))[0] == [(3, 0, 0)]  # the end is just outside


def test_stops_before_the_end(backend):
    assert walk((0.5, 0.5, 0.5), (3.5, 0.5, 0.5), include_end=False)[0] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert walk((0.5, 0.5, 0.5), (0.7, 0.5, 0.5), include_end=False)[0] == []
    assert walk((0.5, 0.5, 0.5), (9.5, 0.5, 0.5), include_end=False)[0] == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0)]


def check_walks(origins, ends, offsets):
    """Identities of any walk in the grid of this file."""
    coords, ray_offsets, spans = traverse_voxels(origins, ends, RANGE, SIZE, offsets=offsets)
    ray = torch.repeat_interleave(torch.arange(len(origins)), ray_offsets.diff())
    cloud = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    assert torch.equal(coords[:, 0].long(), cloud[ray])
    cells = coords[:, [3, 2, 1]].long()
    assert bool(((cells >= 0) & (cells < torch.tensor(CELLS))).all())
    together = ray[1:] == ray[:-1]
    assert bool((cells.diff(dim=0).abs().sum(1)[together] == 1).all())  # neighbours by a face
    assert torch.equal(spans[1:, 0][together], spans[:-1, 1][together])  # no gap
    assert bool((spans[:, 0] <= spans[:, 1]).all() and (spans >= 0).all() and (spans <= 1).all())
    # the middle of each span is in its voxel
    start, size = torch.tensor(RANGE[:3]).double(), torch.tensor(SIZE).double()
    low, high = ((p.double() - start) / size for p in (origins, ends))
    middle = low[ray] + (high - low)[ray] * spans.double().mean(1, keepdim=True)
    assert bool(((middle >= cells - 1e-4) & (middle <= cells + 1 + 1e-4)).all())
    # all of them together are the part of the segment inside the grid, found by clipping against the six sides
    with np.errstate(divide="ignore", invalid="ignore"):
        sides = np.stack([-low.numpy() / (high - low).numpy(), (np.array(CELLS) - low.numpy()) / (high - low).numpy()])
    enter, leave = np.clip(np.nanmax(sides.min(0), 1), 0, 1), np.clip(np.nanmin(sides.max(0), 1), 0, 1)
    length = torch.zeros(len(origins)).double().index_add(0, ray, spans.double().diff(dim=1)[:, 0])
    np.testing.assert_allclose(length.numpy(), np.maximum(leave - enter, 0), atol=1e-5)
    # where a point is in the grid, its voxel is the one of the voxelizer
    for points, at in ((origins, ray_offsets[:-1]), (ends, ray_offsets[1:] - 1)):
        voxels, point_voxel, order = dynamic_voxelize(points, offsets, RANGE, SIZE)
        assert torch.equal(coords[at[order]], voxels[point_voxel])
    # without the ends: the same less one where the end is inside
    shorter, shorter_offsets, _ = traverse_voxels(origins, ends, RANGE, SIZE, offsets=offsets, include_end=False)
    inside = torch.zeros(len(ends), dtype=torch.bool)
    inside[order] = True
    assert torch.equal(shorter_offsets.diff(), ray_offsets.diff() - inside.long())
    last = torch.zeros(len(coords), dtype=torch.bool)
    last[ray_offsets[1:][inside] - 1] = True
    assert torch.equal(shorter, coords[~last])


def test_identities(backend, generator):
    origins = torch.rand(3000, 3, generator=generator) * torch.tensor([8.0, 4.0, 5.0]) - torch.tensor([4.0, 2.0, 1.0])
    ends = torch.rand(3000, 3, generator=generator) * torch.tensor([8.0, 4.0, 5.0]) - torch.tensor([4.0, 2.0, 1.0])
    check_walks(origins, ends, torch.tensor([0, 10, 10, 2000, 3000]))
    check_walks(origins[:1].expand(3000, 3), ends, torch.tensor([0, 3000]))


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([-3.0, -0.0078125, -0.0, 0.0, 0.5, 1.0, 1.0000001, 1.5, 2.0, 2.75, 3.0, 4.0, 4.5, 7.0]), min_size=6, max_size=6))
@example([-3.0, -3.0, -3.0, 7.0, 7.0, 7.0])
@example([4.0, 4.0, 4.0, 0.0, 0.0, 0.0])
def test_is_exact_geometry(numbers):
    """Through corners and edges, along faces, from far outside: the cells and spans of rational arithmetic."""
    origin, end = np.array(numbers, dtype=np.float32).reshape(2, 3)
    expected = exact_walk(origin, end, (4, 4, 4))
    cells, spans = walk(tuple(origin.tolist()), tuple(end.tolist()))
    assert cells == [c for c, _ in expected]
    np.testing.assert_allclose(spans.numpy(), np.array([[float(v) for v in s] for _, s in expected]).reshape(-1, 2), atol=1e-7)
    compare_with_reference(origin, end)


def compare_with_reference(origin, end):
    arguments = (torch.from_numpy(origin.reshape(-1, 3)), torch.from_numpy(end.reshape(-1, 3)), UNIT, ONE)
    for include_end in (True, False):
        found = traverse_voxels(*arguments, include_end=include_end)
        with use_reference():
            expected = traverse_voxels(*arguments, include_end=include_end)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.sampled_from([-1e-30, 0.0, 1e-30, 1.0000001, 2.0, 3.9999998, 4.0, 1e6, -1e20]), min_size=6, max_size=6))
def test_tiny_and_huge_steps(numbers):
    """Where rounding decides which of two crossings comes first, all decide alike."""
    compare_with_reference(*np.array(numbers, dtype=np.float32).reshape(2, 3))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0.5, 3.0, 100.0, 1e7, 1e30]), st.integers(0, 60), st.booleans())
def test_compiled_is_the_reference(seed, scale, count, on_planes):
    rng = np.random.default_rng(seed)
    points = (rng.standard_normal((2, count, 3)) * scale + 2).astype(np.float32)
    points = np.round(points * 2) / 2 if on_planes else points
    if count > 2:
        points[0, 0, 1], points[1, 1, 2], points[0, 2] = np.nan, np.inf, points[1, 2]
    compare_with_reference(points[0], points[1])


def test_threads_and_layouts(same, generator, compiled_cpu):
    both = torch.randn(4000, 6, generator=generator) * 3
    ends = torch.tensor([0, 0, 1500, 4000])
    same(lambda: traverse_voxels(both[:, :3], both[:, 3:], (-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (0.1, 0.1, 0.2), offsets=ends))
    single = both[0, :3]
    same(lambda: traverse_voxels(single.expand(4000, 3), both[:, 3:], (-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (0.1, 0.1, 0.2)))


def test_not_finite_and_no_rays(backend):
    origins, ends = torch.full((5, 3), 0.5), torch.full((5, 3), 1.5)
    origins[0, 0], ends[1, 2], origins[2, 1], ends[3, 0] = float("nan"), float("nan"), float("inf"), -float("inf")
    coords, offsets, spans = traverse_voxels(origins, ends, UNIT, ONE)
    assert offsets.tolist() == [0, 0, 0, 0, 0, 4] and coords.shape == (4, 4) and spans.shape == (4, 2)
    coords, offsets, spans = traverse_voxels(origins[:0], ends[:0], UNIT, ONE, offsets=torch.tensor([0, 0, 0]))
    assert coords.shape == (0, 4) and spans.shape == (0, 2) and offsets.tolist() == [0]
    assert coords.dtype == torch.int32 and spans.dtype == torch.float32 and offsets.dtype == torch.int64


def test_a_long_way_through_a_large_grid(backend):
    """Two million cells along x, entered and left: as many as there are, and nothing lost on the way."""
    start, size = (0.0, 0.0, 0.0, 2.0**21, 4.0, 4.0), (1.0, 1.0, 1.0)
    coords, offsets, spans = traverse_voxels(torch.tensor([[-5.0, 0.5, 0.5]]), torch.tensor([[2.0**21 + 7, 3.5, 0.5]]), start, size)
    assert offsets.tolist() == [0, 2**21 + 3] and coords[-1].tolist() == [0, 0, 3, 2**21 - 1] and coords[0].tolist() == [0, 0, 0, 0]
    assert bool((coords[1:] >= coords[:-1]).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origins": torch.zeros(4, 2)}, r"origins: expected \(N, 3\) coordinates"),
        ({"ends": torch.zeros(4, 3, dtype=torch.float64)}, "ends: expected float32, got float64"),
        ({"ends": torch.zeros(3, 3)}, r"expected as many origins as ends, got \(4, 3\) and \(3, 3\); use .expand"),
        ({"offsets": torch.tensor([0, 3])}, "0 to the 4 rows, got 0 to 3"),
        ({"voxel_size": (0.3, 1.0, 1.0)}, "whole number of voxels of 0.3"),
        ({"voxel_size": (4 / 2**25, 1.0, 1.0)}, "at most 2\\^24 voxels"),
        ({"voxel_size": (4 / 2**24, 4 / 2**24, 4 / 2**24)}, "expected keys of at most 61 bits"),
    ],
)
def test_says_what_is_wrong(change, message, backend):
    arguments = {"origins": torch.zeros(4, 3), "ends": torch.ones(4, 3), "point_range": UNIT, "voxel_size": ONE} | change
    with pytest.raises(ValueError, match=message):
        traverse_voxels(**arguments)


def test_declared_well(compiled_cpu, generator):
    points = torch.rand(20, 3, generator=generator) * 4
    arguments = (points, points.flip(0), torch.tensor([0, 9, 20]), [0.0] * 3, [1.0] * 3, [4] * 3, True)
    torch.library.opcheck(torch.ops.suite3d.traverse_voxels.default, arguments)
