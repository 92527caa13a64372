"""The CUDA kernels of the geometry ops give what the CPU gives: rows to the last one, distances to the last bit."""

from __future__ import annotations

import pytest
import torch

from suite3d import ops
from tests.ops.clouds import KINDS, cloud

pytestmark = pytest.mark.skipif(not ops.compiled("cuda"), reason=f"needs the compiled CUDA ops: {ops.load_errors().get('cuda')}")


def assert_same(function, *tensors, **keywords):
    """``function`` on the device equals ``function`` on the host."""
    there = function(*(t.cuda() for t in tensors), **{k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in keywords.items()})
    here = function(*tensors, **keywords)
    for got, expected in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (there, here)), strict=True):
        assert got.is_cuda and torch.equal(got.cpu(), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 900, 2000, 4000, 8192, 20000])
def test_furthest_points(kind, size):
    points, counts = cloud(kind, size, 0), torch.tensor([min(size, 700)])
    assert_same(ops.furthest_point_sample, points, torch.tensor([0, size]), counts, start=torch.tensor([size // 2]))


def test_furthest_points_of_a_ragged_batch(generator):
    offsets, counts = torch.tensor([0, 10, 10, 3000, 20000]), torch.tensor([12, 0, 100, 300])
    assert_same(ops.furthest_point_sample, torch.randn(20000, 3, generator=generator), offsets, counts)
    assert_same(lambda x, o: ops.furthest_point_sample(x, o, 5), torch.randn(40, 3, generator=generator), torch.tensor([0, 9, 40]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 16, 33, 100])
def test_neighbours(kind, k):
    ends = {"query_offsets": torch.tensor([0, 10, 10, 300]), "point_offsets": torch.tensor([0, 3, 1000, 3000])}
    assert_same(lambda q, p, **e: ops.knn(q, p, k, **e), cloud(kind, 300, 0), cloud(kind, 3000, 1), **ends)
    assert_same(lambda q, p, **e: ops.ball_query(q, p, 0.7, k, **e), cloud(kind, 300, 0), cloud(kind, 3000, 1), **ends)


@pytest.mark.parametrize("kind", KINDS)
def test_chamfer(kind):
    ends = {"a_offsets": torch.tensor([0, 10, 10, 1000]), "b_offsets": torch.tensor([0, 3, 500, 900])}
    assert_same(ops.chamfer_distance, cloud(kind, 1000, 0), cloud(kind, 900, 1), **ends)


def test_chamfer_gradients(generator):
    a, b = torch.randn(800, 3, generator=generator), torch.randn(700, 3, generator=generator)
    grads = []
    for device in ("cpu", "cuda"):
        first, second = a.to(device).requires_grad_(), b.to(device).requires_grad_()
        d2_ab, d2_ba, *_ = ops.chamfer_distance(first, second)
        (d2_ab.sqrt().sum() + d2_ba.sum()).backward()
        grads.append((first.grad.cpu(), second.grad.cpu()))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-5)


def test_boxes(generator):
    low, high = torch.tensor([-9.0, -9, -1, 0.1, 0.1, 0.1, -9]), torch.tensor([9.0, 9, 1, 5, 3, 2, 9])
    boxes = low + torch.rand(5000, 7, generator=generator) * (high - low)
    xyz = torch.rand(20000, 3, generator=generator) * 20 - 10
    assert_same(ops.points_in_boxes, xyz, boxes[:100])
    assert_same(ops.points_in_boxes_mask, xyz, boxes[:100])
    for function in (ops.box_overlap_bev, ops.box_iou_bev, ops.box_iou_3d):
        torch.testing.assert_close(function(boxes[:300].cuda(), boxes.cuda()).cpu(), function(boxes[:300], boxes), rtol=1e-6, atol=1e-6)
    scores = torch.rand(5000, generator=generator)
    assert_same(lambda b, s: ops.nms_rotated(b, s, 0.2), boxes * torch.tensor([5.0, 5, 1, 1, 1, 1, 1]), scores)
    assert_same(lambda b, s: ops.nms_rotated(b, s, 0.2, max_keep=40), boxes, scores)


@pytest.mark.parametrize("curve", ["z", "z-trans", "hilbert", "hilbert-trans"])
@pytest.mark.parametrize("depth", [1, 9, 16, 21])
def test_curves(curve, depth, generator):
    coords, offsets = torch.randint(0, 2**depth, (30000, 3), generator=generator), torch.tensor([0, 9, 9, 20000, 30000])
    for cells in (coords, coords.int()):
        assert_same(lambda c: ops.curve_codes(c, curve, depth=depth), cells)
        assert_same(lambda c, o: ops.curve_order(c, curve, depth=depth, offsets=o), cells, offsets)
    assert_same(lambda c: ops.curve_order(c, curve, depth=depth), coords[:0])


@pytest.mark.parametrize("include_end", [True, False])
@pytest.mark.parametrize("scale", [1.0, 6.0, 1e6])
def test_rays(include_end, scale, generator):
    """Voxels and spans to the last bit, rays on the planes between voxels among them."""
    grid = ((-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (0.125, 0.125, 0.25))
    points = torch.randn(2, 20000, 3, generator=generator) * scale
    points[:, :5000] = (points[:, :5000] * 8).round() / 8
    points[0, 0, 0], points[1, 1, 1], points[0, 2] = float("nan"), float("inf"), points[1, 2]
    offsets = torch.tensor([0, 9, 9, 20000])
    assert_same(lambda a, b, o: ops.traverse_voxels(a, b, *grid, offsets=o, include_end=include_end), points[0], points[1], offsets)
    assert_same(lambda a, b: ops.traverse_voxels(a, b, *grid), points[0, :0], points[1, :0])


def random_boxes(count, generator):
    low, high = torch.tensor([-4.0, -4, -1, 1, 1, 1, -9]), torch.tensor([4.0, 4, 1, 5, 3, 2, 9])
    return low + torch.rand(count, 7, generator=generator) * (high - low)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_grouping(dtype, generator):
    """Rows to the last bit, gradients too: both sum the slots of a point in their order."""
    xyz, query = torch.randn(5000, 3, generator=generator), torch.randn(900, 3, generator=generator) * 2
    index = ops.ball_query(query, xyz, 0.4, 12)[0]
    feats = torch.randn(5000, 21, generator=generator).to(dtype)
    assert_same(ops.group_points, query, xyz, feats, index)
    assert_same(ops.group_points, query[:0], xyz, feats, index[:0])
    grads = []
    for device in ("cpu", "cuda"):
        leaf = feats.to(device).requires_grad_()
        out = ops.group_points(query.to(device), xyz.to(device), leaf, index.to(device))
        (out * out.detach()).sum().backward()
        grads.append(leaf.grad.cpu())
    assert torch.equal(*grads)


@pytest.mark.parametrize("limits", [{"distance": 0}, {"distance": 4}, {"distance": 9, "reach": (2, 3, 4), "radius": 0.7}])
def test_voxel_query(limits, generator):
    place = {"start": (-4.0, -4.0, -2.0), "voxel_size": (0.2, 0.2, 0.2), "spatial_shape": (20, 40, 40)}
    keys = torch.randperm(2 * 20 * 40 * 40, generator=generator)[:9000].sort().values
    coords = torch.stack([keys // 32000, keys // 1600 % 20, keys // 40 % 40, keys % 40], dim=1).int()
    query = torch.rand(3000, 3, generator=generator) * 11 - 5.5
    query[5, 1], query[6, 0] = float("nan"), float("inf")
    offsets = torch.tensor([0, 1000, 3000])
    assert_same(lambda q, c, o: ops.voxel_query(q, c, k=7, query_offsets=o, **limits, **place), query, coords, offsets)


def test_roi_grid_pooling(generator):
    """The grid itself goes through sines of the device, so near neighbours may differ: all but a few rows are the same."""
    boxes, xyz = random_boxes(60, generator), torch.randn(20000, 3, generator=generator) * 3
    ends = {"box_offsets": torch.tensor([0, 20, 60]), "point_offsets": torch.tensor([0, 8000, 20000])}
    options = {"grid_size": 6, "radius": 0.8, "k": 16}
    here, count = ops.roi_grid_pool(boxes, xyz, xyz, **ends, **options)
    there, count_there = ops.roi_grid_pool(boxes.cuda(), xyz.cuda(), xyz.cuda(), **{name: end.cuda() for name, end in ends.items()}, **options)
    assert float((count == count_there.cpu()).float().mean()) > 0.999
    assert float(torch.isclose(here, there.cpu(), atol=1e-4).all(-1).float().mean()) > 0.999
