"""Grouping of neighbours and the voxel query: naive versions, identities with other ops, gradients."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suite3d.ops import SparseTensor, ball_query, dynamic_voxelize, group_points, use_reference, voxel_query

GRID = {"start": (-2.0, -1.0, 0.0), "voxel_size": (0.5, 0.25, 1.0)}
CELLS = (3, 8, 8)  # z, y, x


def inputs(generator, queries=20, points=50, channels=4, slots=5, dtype=torch.float32):
    index = torch.randint(0, points, (queries, slots), generator=generator)
    used = torch.randint(0, slots + 1, (queries,), generator=generator)
    index[torch.arange(slots) >= used[:, None]] = -1
    query, xyz = torch.randn(queries, 3, generator=generator), torch.randn(points, 3, generator=generator)
    return query, xyz, torch.randn(points, channels, generator=generator, dtype=dtype), index


def naive(query, points, feats, index):
    out = torch.zeros(*index.shape, 3 + feats.shape[1], dtype=feats.dtype)
    for q, row in enumerate(index.tolist()):
        for slot, i in enumerate(row):
            i = row[0] if i < 0 else i
            if i >= 0:
                out[q, slot] = torch.cat([(points[i] - query[q]).to(feats.dtype), feats[i]])
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_is_the_definition(dtype, backend, generator):
    arguments = inputs(generator, dtype=dtype)
    out = group_points(*arguments)
    assert out.dtype == dtype and torch.equal(out, naive(*arguments))
    with torch.autocast("cpu", torch.bfloat16):
        assert group_points(*arguments).dtype == dtype


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 30), st.integers(1, 30), st.integers(0, 9), st.integers(1, 9))
def test_compiled_is_the_reference(seed, queries, points, channels, slots):
    arguments = inputs(torch.Generator().manual_seed(seed), queries, points, channels, slots)
    results = []
    for context in (contextlib.nullcontext(), use_reference()):
        leaf = arguments[2].clone().requires_grad_()
        with context:
            out = group_points(arguments[0], arguments[1], leaf, arguments[3])
            (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        results.append((out.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_gradients(backend, generator):
    query, points, feats, index = inputs(generator, dtype=torch.float64)
    feats.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: group_points(query, points, f, index), feats)
    assert torch.autograd.gradgradcheck(lambda f: group_points(query, points, f, index), feats)
    weight = torch.randn(20, 5, 7, generator=generator, dtype=torch.float64)
    (group_points(query, points, feats, index) * weight).sum().backward()
    expected = torch.zeros_like(feats)
    for q, row in enumerate(index.tolist()):
        for slot, i in enumerate(row):
            i = row[0] if i < 0 else i
            if i >= 0:
                expected[i] += weight[q, slot, 3:]
    torch.testing.assert_close(feats.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_gradients_are_added_in_float32(dtype, backend):
    feats = torch.ones(1, 2, dtype=dtype, requires_grad=True)
    group_points(torch.zeros(3000, 3), torch.zeros(1, 3), feats, torch.zeros(3000, 1, dtype=torch.int64)).sum().backward()
    assert feats.grad.tolist() == torch.full((1, 2), 3000.0, dtype=dtype).tolist()  # in bfloat16 one by one would stop at 256


def test_threads_and_layouts(same, generator, compiled_cpu):
    query, points, feats, index = inputs(generator, queries=3000, points=700, channels=19, slots=16)
    wide, long = torch.cat([points, feats], dim=1), index.repeat_interleave(2, dim=1)

    def compute():
        leaf = wide.clone().requires_grad_()
        out = group_points(query.repeat(1, 2)[:, 3:], leaf[:, :3], leaf[:, 3:], long[:, ::2])
        (out * out.detach()).sum().backward()
        return out.detach(), leaf.grad

    same(compute, rtol=1e-5, atol=1e-4)
    assert torch.equal(compute()[0], group_points(query, points, feats, index))


@pytest.mark.parametrize(("queries", "points", "channels"), [(0, 5, 2), (4, 1, 2), (4, 5, 0), (0, 0, 0), (1, 1, 1)])
def test_few_of_anything(queries, points, channels, backend, generator):
    query, xyz, feats, index = inputs(generator, queries, points + 1, channels, 3)
    xyz, feats, index = xyz[:points], feats[:points].requires_grad_(), index.clamp(max=points - 1)
    out = group_points(query, xyz, feats, index)
    assert torch.equal(out, naive(query, xyz, feats, index))
    out.sum().backward()
    assert feats.grad.shape == feats.shape
    nothing = group_points(query, xyz[:0], feats[:0], torch.full_like(index, -1))
    assert nothing.shape == out.shape and not nothing.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": torch.full((4, 2), 5)}, r"index: expected rows of the 5 points, or -1, got 5 to 5"),
        ({"index": torch.full((4, 2), -2)}, r"index: expected rows of the 5 points, or -1, got -2 to -2"),
        ({"index": torch.zeros(4, 0, dtype=torch.int64)}, "index: expected at least one slot"),
        ({"index": torch.zeros(3, 2, dtype=torch.int64)}, r"index: expected shape \(4, \*\), got \(3, 2\)"),
        ({"index": torch.zeros(4, 2, dtype=torch.int32)}, "index: expected int64, got int32"),
        ({"feats": torch.zeros(6, 2)}, r"feats: expected shape \(5, \*\), got \(6, 2\)"),
        ({"query": torch.zeros(4, 2)}, r"query: expected \(N, 3\)"),
    ],
)
def test_says_what_is_wrong(change, message, host_backend):
    arguments = {"query": torch.zeros(4, 3), "points": torch.zeros(5, 3), "feats": torch.zeros(5, 2), "index": torch.zeros(4, 2).long()} | change
    with pytest.raises(ValueError, match=message):
        group_points(**arguments)


def search(query, coords, offsets, *, distance, k, reach=None, radius=np.inf):
    """Every voxel against every query."""
    reach = (distance,) * 3 if reach is None else reach
    start, size = (np.array(GRID[name], dtype=np.float32) for name in ("start", "voxel_size"))
    with np.errstate(invalid="ignore"):
        cell = np.floor((query.numpy() - start) / size)
    cells = coords[:, [3, 2, 1]].numpy()
    gaps = query.numpy()[:, None] - ((cells.astype(np.float32) + np.float32(0.5)) * size + start)
    with np.errstate(over="ignore"):
        d2 = gaps[..., 0] * gaps[..., 0] + gaps[..., 1] * gaps[..., 1] + gaps[..., 2] * gaps[..., 2]
    steps = np.abs(cells - cell[:, None])
    near = (steps.sum(-1) <= distance) & (steps <= np.array(reach[::-1])).all(-1) & (d2 < np.float32(radius) * np.float32(radius))
    index = np.full((len(query), k), -1)
    for row in range(len(query)):
        batch = int((offsets <= row).sum()) - 1
        found = np.flatnonzero(near[row] & (coords[:, 0].numpy() == batch))[:k]
        index[row, : len(found)] = found
    return torch.from_numpy(index), torch.from_numpy((index >= 0).sum(1))


@pytest.mark.parametrize(
    "limits",
    [
        {"distance": 0, "k": 2},
        {"distance": 2, "k": 6},
        {"distance": 4, "k": 100},
        {"distance": 6, "reach": (1, 2, 3), "k": 9},
        {"distance": 6, "reach": (2, 2, 2), "radius": 0.8, "k": 9},
    ],
)
def test_voxel_query_is_the_definition(limits, backend, coords_of, generator):
    coords = coords_of(CELLS, 3, 150, generator)
    coords = coords[coords[:, 0] != 1]  # a grid without voxels
    query = torch.rand(120, 3, generator=generator) * torch.tensor([6.0, 4.0, 7.0]) - torch.tensor([3.0, 2.0, 2.0])
    query[3, 1], query[7, 0], query[9, 2] = float("nan"), float("inf"), 1e30
    offsets = torch.tensor([0, 60, 70, 120])
    found = voxel_query(query, coords, spatial_shape=CELLS, **GRID, query_offsets=offsets, **limits)
    assert all(torch.equal(a, b) for a, b in zip(found, search(query, coords, offsets, **limits), strict=True))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 2**16), st.integers(0, 40), st.integers(0, 60), st.integers(0, 4), st.integers(1, 9), st.tuples(*[st.integers(0, 3)] * 3))
def test_voxel_query_on_any_scene(seed, queries, voxels, distance, k, reach):
    rng = np.random.default_rng(seed)
    keys = np.sort(rng.choice(3 * 8 * 8, size=voxels, replace=False))
    coords = torch.from_numpy(np.stack([0 * keys, keys // 64, keys // 8 % 8, keys % 8], 1).astype(np.int32))
    query = torch.from_numpy((rng.integers(-12, 20, (queries, 3)) * 0.25).astype(np.float32))  # on the faces between cells too
    limits = {"distance": distance, "reach": reach, "k": k, "radius": float(rng.choice([0.3, 1.0, np.inf]))}
    expected = search(query, coords, torch.tensor([0, queries]), **limits)
    found = voxel_query(query, coords, spatial_shape=CELLS, **GRID, **limits)
    with use_reference():
        slow = voxel_query(query, coords, spatial_shape=CELLS, **GRID, **limits)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(found, expected, slow, strict=True))


@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_a_full_grid_holds_an_octahedron(distance, backend):
    coords = torch.cartesian_prod(*map(torch.arange, (1, 9, 9, 9))).int()
    shape = {"spatial_shape": (9, 9, 9), "start": (0.0, 0.0, 0.0), "voxel_size": (1.0, 1.0, 1.0)}
    index, count = voxel_query(torch.full((1, 3), 4.5), coords, distance=distance, k=99, **shape)
    assert count.tolist() == [(2 * distance + 1) * (2 * distance**2 + 2 * distance + 3) // 3]
    assert bool((coords[index[0, : int(count)], 1:] - 4).abs().sum(1).le(distance).all())


def test_finds_the_voxels_of_the_voxelizer(backend, generator):
    xyz = torch.randn(900, 3, generator=generator)
    ends = torch.tensor([0, 300, 300, 900])
    coords, row, order = dynamic_voxelize(xyz, ends, (-2.0, -1.0, 0.0, 2.0, 1.0, 3.0), GRID["voxel_size"])
    index, count = voxel_query(xyz, coords, spatial_shape=CELLS, **GRID, distance=0, k=1, query_offsets=ends)
    expected = torch.full((900,), -1)
    expected[order] = row
    assert torch.equal(index[:, 0], expected) and torch.equal(count, (expected >= 0).long())


def test_with_a_radius_it_is_a_ball_query_of_the_centres(same, coords_of, generator, compiled_cpu):
    coords = coords_of((20, 40, 40), 2, 5000, generator)
    place = {"spatial_shape": (20, 40, 40), "start": (-4.0, -4.0, -2.0), "voxel_size": (0.2, 0.2, 0.2)}
    centres = (coords[:, [3, 2, 1]] + 0.5) * torch.tensor(place["voxel_size"]) + torch.tensor(place["start"])
    query = torch.rand(1500, 3, generator=generator) * 9 - 4.5
    ends, voxels = torch.tensor([0, 500, 1500]), SparseTensor(coords=coords, feats=centres, spatial_shape=(20, 40, 40), batch_size=2)
    found = voxel_query(query, coords, distance=12, reach=4, radius=0.6, k=16, query_offsets=ends, **place)
    expected = ball_query(query, centres, 0.6, 16, query_offsets=ends, point_offsets=voxels.offsets())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    same(lambda: voxel_query(query, coords, distance=4, k=16, query_offsets=ends, **place))


def test_no_voxels_no_queries_and_other_layouts(backend, coords_of, generator):
    coords = coords_of(CELLS, 1, 90, generator)
    query = torch.rand(10, 6, generator=generator)
    limits = {"distance": 2, "k": 3, "spatial_shape": CELLS, **GRID}
    index, count = voxel_query(query[:, :3], coords[:0], **limits)
    assert index.tolist() == [[-1] * 3] * 10 and not count.any()
    assert [x.shape for x in voxel_query(query[:0, :3], coords, **limits)] == [(0, 3), (0,)]
    strided = voxel_query(query[:, ::2], coords.repeat_interleave(2, 1)[:, ::2], **limits)
    assert all(torch.equal(a, b) for a, b in zip(strided, voxel_query(query[:, ::2].contiguous(), coords, **limits), strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]]).int()}, "coords: expected sorted"),
        ({"coords": torch.tensor([[0, 1, 0, 0], [0, 1, 0, 0]]).int()}, "coords: expected sorted"),
        ({"coords": torch.tensor([[0, 0, 0, 8]]).int()}, r"coords: expected \[batch, z, y, x\] below \(1, 3, 8, 8\)"),
        ({"coords": torch.tensor([[1, 0, 0, 0]]).int()}, r"coords: expected \[batch, z, y, x\] below \(1, 3, 8, 8\)"),
        ({"coords": torch.zeros(1, 4).long()}, "coords: expected int32, got int64"),
        ({"query": torch.zeros(2, 3).double()}, "query: expected float32"),
        ({"query_offsets": torch.tensor([0, 1])}, "query_offsets: expected to run from 0 to the 2 rows"),
        ({"k": 0}, "k: expected at least 1"),
        ({"distance": -1}, "distance: expected 0 to 2"),
        ({"reach": (1, 2)}, "reach: expected an int or three ints"),
        ({"reach": -1}, "reach: expected values >= 0"),
        ({"radius": 0.0}, "radius: expected a positive number"),
        ({"voxel_size": (0.1, 0.1, 0.0)}, "voxel_size: expected three positive numbers"),
        ({"start": (0.0, float("nan"), 0.0)}, "start: expected three finite numbers"),
        ({"spatial_shape": (2**21, 2**21, 2**21)}, "fewer than 2.61 cells"),
    ],
)
def test_voxel_query_says_what_is_wrong(change, message, host_backend):
    arguments = {"query": torch.zeros(2, 3), "coords": torch.zeros(1, 4).int(), "spatial_shape": CELLS, **GRID, "distance": 1, "k": 1} | change
    with pytest.raises(ValueError, match=message):
        voxel_query(arguments.pop("query"), arguments.pop("coords"), **arguments)


def test_declared_well(compiled_cpu, coords_of, generator):
    query, points, feats, index = inputs(generator)
    torch.library.opcheck(torch.ops.suite3d.group_points.default, (query, points, feats.requires_grad_(), index))
    torch.library.opcheck(torch.ops.suite3d.group_points_backward.default, (torch.randn(20, 5, 7), index, 50))
    place = ([-2.0, -1.0, 0.0], [0.5, 0.25, 1.0], [8, 8, 3], [2, 2, 2], 3, float("inf"), 4)
    arguments = (query, coords_of(CELLS, 2, 90, generator), torch.tensor([0, 5, 20]), *place)
    torch.library.opcheck(torch.ops.suite3d.voxel_query.default, arguments)
