"""RoI-grid pooling: the geometry of the grid, and pooling against its parts."""

from __future__ import annotations

import math

import pytest
import torch

from suite3d.ops import SparseTensor, ball_query, group_points, points_in_boxes_mask, roi_grid_points, roi_grid_pool, roi_grid_pool_voxels


def random_boxes(count, generator):
    low, high = torch.tensor([-3.0, -3, -1, 0.5, 0.5, 0.5, -9]), torch.tensor([3.0, 3, 1, 4, 3, 2, 9])
    return low + torch.rand(count, 7, generator=generator) * (high - low)


def test_known_grid():
    points = roi_grid_points(torch.tensor([[10.0, 20, 30, 4, 2, 6, 0], [10.0, 20, 30, 4, 2, 6, math.pi / 2]]), (2, 1, 3))
    flat = [[x, 20.0, z] for x in (9.0, 11.0) for z in (28.0, 30.0, 32.0)]
    torch.testing.assert_close(points[0], torch.tensor(flat))
    turned = [[10.0, y, z] for y in (19.0, 21.0) for z in (28.0, 30.0, 32.0)]  # the length points along +y
    torch.testing.assert_close(points[1], torch.tensor(turned))
    assert torch.equal(roi_grid_points(torch.tensor([[1.0, 2, 3, 4, 5, 6, 0.7]]), 1), torch.tensor([[[1.0, 2, 3]]]))


def test_grid_is_inside_and_moves_with_the_box(generator):
    boxes = random_boxes(30, generator)
    points = roi_grid_points(boxes, 6)
    assert points.shape == (30, 216, 3)
    inside = points_in_boxes_mask(points.flatten(0, 1), boxes).view(30, 30, 216)
    assert bool(inside.diagonal().all())
    torch.testing.assert_close(points.mean(1), boxes[:, :3], atol=1e-5, rtol=1e-5)
    # moments of a box: dx^2 / 12 (1 - 1 / n^2) along each of its axes
    yaw = boxes[:, 6]
    axes = torch.stack([yaw.cos(), yaw.sin(), 0 * yaw, -yaw.sin(), yaw.cos(), 0 * yaw, 0 * yaw, 0 * yaw, 1 + 0 * yaw], 1).view(30, 3, 3)
    local = torch.einsum("mgi,mai->mga", points - boxes[:, None, :3], axes)
    torch.testing.assert_close((local**2).mean(1), boxes[:, 3:6] ** 2 / 12 * (1 - 1 / 36), atol=1e-4, rtol=1e-4)
    velocities = torch.cat([boxes, torch.randn(30, 2, generator=generator)], dim=1)
    assert torch.equal(roi_grid_points(velocities, (6, 6, 6)), points)


def test_each_cloud_pools_its_own_points(backend, generator):
    boxes, points = random_boxes(7, generator), torch.randn(500, 3, generator=generator)
    feats = torch.randn(500, 5, generator=generator)
    box_ends, point_ends = torch.tensor([0, 2, 2, 7]), torch.tensor([0, 100, 300, 500])
    options = {"grid_size": (3, 2, 2), "radius": 0.9, "k": 6}
    grouped, count = roi_grid_pool(boxes, points, feats, box_offsets=box_ends, point_offsets=point_ends, **options)
    assert grouped.shape == (7, 12, 6, 8) and count.shape == (7, 12)
    for cloud in (0, 2):
        mine, rows = slice(box_ends[cloud], box_ends[cloud + 1]), slice(point_ends[cloud], point_ends[cloud + 1])
        alone, alone_count = roi_grid_pool(boxes[mine], points[rows], feats[rows], **options)
        assert torch.equal(grouped[mine], alone) and torch.equal(count[mine], alone_count)
    assert 0 < int((count == 0).sum()) and int((count == 6).sum()) > 0
    assert not grouped[count == 0].any()
    assert bool((grouped[count > 0][..., :3].norm(dim=-1) < 0.9 + 1e-5).all())
    first = grouped[..., :1, :].expand_as(grouped)
    unused = torch.arange(6) >= count[..., None]
    assert torch.equal(grouped[unused], first[unused])  # so that no maximum changes


def test_is_ball_query_then_grouping_with_gradients(backend, generator):
    boxes, points = random_boxes(4, generator), torch.randn(300, 3, generator=generator)
    feats = torch.randn(300, 5, generator=generator, requires_grad=True)
    grouped, count = roi_grid_pool(boxes, points, feats, grid_size=3, radius=0.8, k=5)
    query = roi_grid_points(boxes, 3).flatten(0, 1)
    index, expected_count = ball_query(query, points, 0.8, 5)
    assert torch.equal(grouped.flatten(0, 1), group_points(query, points, feats, index)) and torch.equal(count.flatten(), expected_count)
    grouped[..., 3:].sum().backward()
    rows = torch.where(index < 0, index[:, :1], index).flatten()
    uses = torch.bincount(rows[rows >= 0], minlength=300)
    assert torch.equal(feats.grad, uses[:, None].expand(300, 5).float())


def test_gradcheck(backend, generator):
    voxels = level(generator, 20, 1, torch.float64)
    centres = (voxels.coords[:, [3, 2, 1]] + 0.5) * torch.tensor(PLACE["voxel_size"]) + torch.tensor(PLACE["start"])
    boxes = random_boxes(2, generator)
    boxes[:, :3] = centres[::10]
    feats, options = voxels.feats.requires_grad_(), {"grid_size": 1, "k": 3}
    for pool in (
        lambda f: roi_grid_pool(boxes, centres, f, radius=2.5, **options),
        lambda f: roi_grid_pool_voxels(boxes, voxels.replace(f), **PLACE, distance=3, reach=1, **options),
    ):
        assert int(pool(feats)[1].sum()) >= 2
        assert torch.autograd.gradcheck(lambda f, pool=pool: pool(f)[0], feats)


PLACE = {"start": (-4.0, -4.0, -2.0), "voxel_size": (0.4, 0.4, 0.4)}


def level(generator, count, batch_size, dtype=torch.float32):
    z, y, x = 10, 20, 20
    keys = torch.randperm(batch_size * z * y * x, generator=generator)[:count].sort().values
    coords = torch.stack([keys // (z * y * x), keys // (y * x) % z, keys // x % y, keys % x], dim=1).int()
    feats = torch.randn(count, 2, generator=generator, dtype=dtype)
    return SparseTensor(coords=coords, feats=feats, spatial_shape=(z, y, x), batch_size=batch_size)


def test_voxels_within_a_radius_are_the_points_of_their_centres(backend, generator):
    voxels, boxes = level(generator, 2500, 3), random_boxes(9, generator)
    ends = torch.tensor([0, 4, 4, 9])
    centres = (voxels.coords[:, [3, 2, 1]] + 0.5) * torch.tensor(PLACE["voxel_size"]) + torch.tensor(PLACE["start"])
    found = roi_grid_pool_voxels(boxes, voxels, **PLACE, grid_size=3, distance=9, reach=3, radius=0.7, k=8, box_offsets=ends)
    expected = roi_grid_pool(boxes, centres, voxels.feats, grid_size=3, radius=0.7, k=8, box_offsets=ends, point_offsets=voxels.offsets())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    one = roi_grid_pool_voxels(boxes[:4], level(generator, 900, 1), **PLACE, grid_size=3, distance=2, k=8)
    assert one[0].shape == (4, 27, 8, 5) and int(one[1].max()) > 1


def test_one_thread_and_two(same, generator, compiled_cpu):
    boxes, voxels, points = random_boxes(60, generator), level(generator, 2500, 1), torch.randn(5000, 3, generator=generator) * 2
    same(lambda: roi_grid_pool(boxes, points, points, grid_size=6, radius=0.5, k=16))
    same(lambda: roi_grid_pool_voxels(boxes, voxels, **PLACE, grid_size=6, distance=3, k=16))


def test_nothing_to_pool(backend, generator):
    boxes, points, voxels = random_boxes(3, generator), torch.randn(10, 3, generator=generator), level(generator, 3000, 1)
    boxes[1, 4], boxes[2, 6] = float("nan"), float("inf")
    options = {"grid_size": 2, "k": 4}
    for grouped, count in (
        roi_grid_pool(boxes, points, points, radius=9.0, **options),
        roi_grid_pool_voxels(boxes, voxels, **PLACE, distance=4, **options),
    ):
        assert bool((count[0] == 4).all()) and not count[1:].any() and not grouped[1:].any()
    assert roi_grid_pool(boxes[:0], points, points, radius=9.0, **options)[0].shape == (0, 8, 4, 6)
    empty, count = roi_grid_pool(boxes[:1], points[:0], points[:0], radius=9.0, **options)
    assert empty.shape == (1, 8, 4, 6) and not empty.any() and not count.any()
    one = roi_grid_pool(boxes[:1], points[:1].repeat(5, 1), torch.arange(5.0)[:, None], radius=90.0, **options)  # duplicates, by row
    assert bool((one[0][..., 3] == torch.arange(4.0)).all())


def test_says_what_is_wrong(backend, generator):
    boxes, points, voxels = random_boxes(3, generator), torch.randn(10, 3), level(generator, 50, 2)
    with pytest.raises(ValueError, match="grid_size: expected a positive int or three"):
        roi_grid_points(boxes, (2, 2))
    with pytest.raises(ValueError, match="grid_size: expected a positive int or three"):
        roi_grid_points(boxes, 0)
    with pytest.raises(ValueError, match=r"boxes: expected \(N, 7\) boxes"):
        roi_grid_points(boxes[:, :6], 2)
    with pytest.raises(ValueError, match="box_offsets: expected to run from 0 to the 3 rows"):
        roi_grid_pool(boxes, points, points, grid_size=2, radius=1.0, k=1, box_offsets=torch.tensor([0, 2]), point_offsets=torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="expected offsets of both query and points"):
        roi_grid_pool(boxes, points, points, grid_size=2, radius=1.0, k=1, point_offsets=torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="box_offsets: expected 3 entries for a batch of 2, got none"):
        roi_grid_pool_voxels(boxes, voxels, **PLACE, grid_size=2, distance=1, k=1)
    with pytest.raises(ValueError, match="box_offsets: expected 3 entries for a batch of 2, got 2"):
        roi_grid_pool_voxels(boxes, voxels, **PLACE, grid_size=2, distance=1, k=1, box_offsets=torch.tensor([0, 3]))
