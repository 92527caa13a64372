"""Every CUDA kernel, in the emulator, gives what the CPU kernel gives: rows to the last one, distances to the last bit.

The tests that use the ``backend`` fixture compare with definitions and references. Here: sizes around those of blocks and tiles,
ragged batches with empty clouds, ties and duplicates, in several drawn orders of the threads.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suite3d import ops
from suite3d.ops import library
from tests.ops import cuda_emulator
from tests.ops.clouds import KINDS, cloud
from tests.ops.conftest import random_coords

pytestmark = pytest.mark.skipif(cuda_emulator.why_not() is not None, reason=f"needs the CUDA emulator: {cuda_emulator.why_not()}")
SIZES = (1, 31, 33, 127, 128, 129, 255, 257, 1023, 1024, 1025)
Compute = Callable[[], tuple[Tensor, ...]]


def assert_emulated_same(compute: Compute, *used: str, tolerance: float = 0.0, seeds: int = 2) -> None:
    """``compute()`` gives the same on the emulated kernels ``used``, whatever the order of the threads, as on the CPU."""
    expected = compute()
    with cuda_emulator.emulated():
        for seed in range(seeds):
            cuda_emulator.seed(seed)
            cuda_emulator.calls.clear()
            got = compute()
            assert set(used) <= set(cuda_emulator.calls)
            for mine, theirs in zip(got, expected, strict=True):
                torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance, equal_nan=True)


def ragged(size: int) -> Tensor:
    """Ends of clouds of ``size`` rows in all, three of them empty."""
    return torch.tensor([0, 0, size // 3, size // 3, size // 3 + size // 2, size, size])


def test_each_cuda_op_is_emulated():
    cuda_emulator.load()
    names = cuda_emulator.registered_ops()
    assert {"furthest_point_sample", "sparse_conv_weight_grad", "nms_rotated"} <= set(names) <= set(library.defined())
    assert [n for n in names if not torch._C._dispatch_has_kernel_for_dispatch_key(f"suite3d_emulated::{n}", "CPU")] == []
    covered = {name for test in COVERED for name in test}
    assert set(names) - covered == set()


COVERED: list[tuple[str, ...]] = []


def covers(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Mark a test as the one of these ops; they are passed to it as ``used``."""
    COVERED.append(names)
    return pytest.mark.parametrize("used", [names], ids=["+".join(names)])


@covers("furthest_point_sample")
@pytest.mark.parametrize("size", [*SIZES, 4096, 4097, 8192, 8193, 16384, 16385])
@pytest.mark.parametrize("kind", ["grid", "normal"])
def test_furthest_points_of_sizes(size, kind, used):
    """The last size of each kernel, and the first of the next."""
    ends, start = torch.tensor([0, size]), torch.tensor([size // 2])
    assert_emulated_same(lambda: (ops.furthest_point_sample(cloud(kind, size, 0), ends, min(size, 20), start=start),), *used, seeds=1)


@covers("furthest_point_sample")
@pytest.mark.parametrize("kind", KINDS)
def test_furthest_points_in_leaves(kind, used):
    """Large clouds beside small and empty ones, ties between leaves, a leaf that is not full."""
    ends, counts = torch.tensor([0, 10, 10, 17000, 35007, 35008]), torch.tensor([12, 0, 30, 25, 3])
    start = torch.tensor([9, 0, 10, 35006, 35007])
    assert_emulated_same(lambda: (ops.furthest_point_sample(cloud(kind, 35008, 1), ends, counts, start=start),), *used, seeds=1)


@covers("furthest_point_sample")
@pytest.mark.parametrize("seed", range(5))
def test_furthest_points_in_leaves_in_many_orders(seed, used):
    points, ends = torch.cat([cloud("grid", 9000, seed), cloud("normal", 9000, seed)]), torch.tensor([0, 18000])
    expected = ops.furthest_point_sample(points, ends, 150)
    with cuda_emulator.emulated():
        cuda_emulator.seed(seed)
        assert torch.equal(ops.furthest_point_sample(points, ends, 150), expected)


@covers("furthest_point_sample")
@pytest.mark.parametrize("size", [8192, 8193, 16384])
def test_furthest_points_where_shared_memory_is_small(size, used):
    ends = torch.tensor([0, size])
    with cuda_emulator.shared_memory(99 << 10):
        assert_emulated_same(lambda: (ops.furthest_point_sample(cloud("grid", size, 0), ends, 20),), *used, seeds=1)


def test_only_kernels_for_the_largest_cloud_are_launched(generator):
    """What Python knows of the sizes: rows of the largest cloud. Many small clouds need no order of their rows."""
    points, ends = torch.randn(20000, 3, generator=generator), torch.arange(0, 20001, 1000)
    arguments = (points, ends, torch.full((20,), 9), ends[:-1], 180)
    expected = ops.furthest_point_sample(points, ends, 9)
    with cuda_emulator.emulated():
        for largest in (1000, 20000):
            assert torch.equal(torch.ops.suite3d.furthest_point_sample(*arguments, largest), expected)


@covers("furthest_point_sample")
@pytest.mark.parametrize("size", [131072, 131073, 262145])
def test_furthest_points_of_very_large_clouds(size, used):
    ends = torch.tensor([0, size])
    assert_emulated_same(lambda: (ops.furthest_point_sample(cloud("clusters", size, 0), ends, 15),), *used, seeds=1)


@covers("knn", "ball_query")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 5, 16, 17, 64, 65])
def test_neighbours(kind, k, used):
    query, points = cloud(kind, 257, 0), cloud(kind, 700, 1)
    ends = {"query_offsets": ragged(257), "point_offsets": ragged(700).sort().values}
    assert_emulated_same(lambda: (*ops.knn(query, points, k, **ends), *ops.ball_query(query, points, 0.7, k, **ends)), *used, seeds=1)


@covers("knn", "ball_query", "chamfer")
@pytest.mark.parametrize("size", SIZES)
def test_neighbours_of_sizes(size, used):
    query, points = cloud("grid", size, 0), cloud("normal", 130, 1)
    query[size // 2, 1] = float("nan") if size > 1 else 0.0
    one = {"query_offsets": torch.tensor([0, size]), "point_offsets": torch.tensor([0, 130])}
    assert_emulated_same(lambda: (*ops.knn(query, points, 3, **one), *ops.ball_query(query, points, 0.9, 3, **one)), *used[:2])
    query = query.nan_to_num()
    assert_emulated_same(lambda: tuple(ops.chamfer_distance(query, points)), used[2])


@covers("chamfer", "chamfer_backward")
@pytest.mark.parametrize("kind", ["grid", "same", "clusters", "normal"])
def test_chamfer_and_its_gradients(kind, used):
    a, b = cloud(kind, 300, 0), cloud(kind, 257, 1)
    ends = {"a_offsets": torch.tensor([0, 0, 90, 300]), "b_offsets": torch.tensor([0, 3, 3, 257])}  # the second cloud of b is empty

    def compute():
        first, second = a.clone().requires_grad_(), b.clone().requires_grad_()
        result = ops.chamfer_distance(first, second, **ends)
        weights = [torch.linspace(-1, 2, len(d)) for d in result[:2]]
        sum((d.where(d.isfinite(), 0) * w).sum() for d, w in zip(result[:2], weights, strict=True)).backward()
        return *(r.detach() for r in result), first.grad, second.grad

    assert_emulated_same(compute, *used, tolerance=1e-5 if kind != "clusters" else 1e-3)


@covers("curve_codes", "curve_order")
@pytest.mark.parametrize("curve", ["z", "z-trans", "hilbert", "hilbert-trans"])
@pytest.mark.parametrize("depth", [1, 9, 20, 21])
def test_curves(curve, depth, used, generator):
    coords, offsets = torch.randint(0, 2**depth, (1025, 3), generator=generator), torch.tensor([0, 9, 9, 700, 1024, 1025])
    for cells in (coords, coords.int()):
        assert_emulated_same(
            lambda c=cells: (ops.curve_codes(c, curve, depth=depth), *ops.curve_order(c, curve, depth=depth, offsets=offsets)), *used
        )
        assert_emulated_same(lambda c=cells: ops.curve_order(c, curve, depth=depth), used[1])


def random_boxes(count: int, generator: torch.Generator) -> Tensor:
    low, high = torch.tensor([-9.0, -9, -1, 0.1, 0.1, 0.1, -9]), torch.tensor([9.0, 9, 1, 5, 3, 2, 9])
    return low + torch.rand(count, 7, generator=generator) * (high - low)


@covers("box_iou", "points_in_boxes", "points_in_boxes_mask")
def test_boxes(used, generator):
    boxes, xyz = random_boxes(130, generator), torch.rand(1025, 3, generator=generator) * 20 - 10
    boxes[3], boxes[4, 3], boxes[5, 0], boxes[6, 6] = boxes[2], 0.0, float("nan"), float("inf")
    boxes[7], boxes[7, 6] = boxes[8], boxes[8, 6] + torch.pi
    xyz[0], xyz[1, 2] = boxes[9, :3], float("nan")
    for function in (ops.box_overlap_bev, ops.box_iou_bev, ops.box_iou_3d):
        assert_emulated_same(lambda f=function: (f(boxes[:33], boxes), f(boxes[:1], boxes[:0])), used[0], tolerance=1e-6)
    assert_emulated_same(lambda: (ops.points_in_boxes(xyz, boxes), ops.points_in_boxes_mask(xyz, boxes)), *used[1:])


@covers("nms_rotated")
@pytest.mark.parametrize("count", [1, 63, 64, 65, 128, 129, 1000])
@pytest.mark.parametrize("spread", [0.3, 3.0])
def test_nms(count, spread, used, generator):
    boxes, scores = random_boxes(count, generator) * torch.tensor([spread, spread, 1, 1, 1, 1, 1]), torch.rand(count, generator=generator)
    scores[count // 2 :] = (scores[count // 2 :] * 4).round()  # ties
    boxes[-1] = boxes[0]
    for limit in (None, 1, 17):
        assert_emulated_same(lambda k=limit: (ops.nms_rotated(boxes, scores, 0.2, max_keep=k),), *used)


@covers("nms_rotated")
def test_nms_of_more_than_one_strip(used, generator):
    boxes, scores = random_boxes(4200, generator) * torch.tensor([9.0, 9, 1, 1, 1, 1, 1]), torch.rand(4200, generator=generator)
    assert_emulated_same(lambda: (ops.nms_rotated(boxes, scores, 0.1), ops.nms_rotated(boxes, scores, 0.1, max_keep=2000)), *used, seeds=1)


@covers("traverse_voxels")
@pytest.mark.parametrize("include_end", [True, False])
@pytest.mark.parametrize("scale", [1.0, 6.0, 1e6])
def test_rays(include_end, scale, used, generator):
    grid = ((-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (0.125, 0.125, 0.25))
    points = torch.randn(2, 1025, 3, generator=generator) * scale
    points[:, :500] = (points[:, :500] * 8).round() / 8  # on the planes between voxels
    points[0, 0, 0], points[1, 1, 1], points[0, 2] = float("nan"), float("inf"), points[1, 2]
    offsets = torch.tensor([0, 9, 9, 1025])
    assert_emulated_same(lambda: ops.traverse_voxels(points[0], points[1], *grid, offsets=offsets, include_end=include_end), *used)
    assert_emulated_same(lambda: ops.traverse_voxels(points[0, :0], points[1, :0], *grid), *used)


@covers("group_points", "group_points_backward")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_grouping(dtype, used, generator):
    xyz, query = torch.randn(500, 3, generator=generator), torch.randn(129, 3, generator=generator) * 2
    index, feats = ops.ball_query(query, xyz, 0.4, 9)[0], torch.randn(500, 21, generator=generator).to(dtype)
    index[3] = 7  # one row in every slot

    def compute():
        leaf = feats.clone().requires_grad_()
        out = ops.group_points(query, xyz, leaf, index)
        (out * out.detach()).sum().backward()
        return out.detach(), leaf.grad

    assert_emulated_same(compute, *used)


@covers("voxel_query")
@pytest.mark.parametrize("limits", [{"distance": 0}, {"distance": 4}, {"distance": 9, "reach": (2, 3, 4), "radius": 0.7}])
def test_voxel_query(limits, used, generator):
    place = {"start": (-4.0, -4.0, -2.0), "voxel_size": (0.2, 0.2, 0.2), "spatial_shape": (20, 40, 40)}
    coords, query = random_coords((20, 40, 40), 2, 9000, generator), torch.rand(257, 3, generator=generator) * 11 - 5.5
    query[5, 1], query[6, 0] = float("nan"), float("inf")
    offsets = torch.tensor([0, 100, 257])
    assert_emulated_same(lambda: ops.voxel_query(query, coords, k=7, query_offsets=offsets, **limits, **place), *used)


@covers("dynamic_voxelize", "hard_voxelize")
@pytest.mark.parametrize("size", SIZES)
def test_voxels(size, used, generator):
    xyz, feats = torch.randn(size, 3, generator=generator) * 3, torch.randn(size, 2, generator=generator)
    xyz[size // 2 :] = (xyz[size // 2 :] * 2).round() / 2  # on the planes between voxels, the end of the range among them
    if size > 3:
        xyz[0], xyz[1, 2], xyz[2, 0], xyz[3] = float("nan"), float("inf"), -float("inf"), 4.0
    grid = ((-4.0, -4.0, -4.0, 4.0, 4.0, 4.0), (0.5, 0.5, 1.0))
    for offsets in (torch.tensor([0, size]), ragged(size)):
        assert_emulated_same(lambda o=offsets: ops.dynamic_voxelize(xyz, o, *grid), used[0])
        for limits in ({"max_points": 1, "max_voxels": 1}, {"max_points": 3, "max_voxels": 40}, {"max_points": 40, "max_voxels": 2000}):
            assert_emulated_same(lambda o=offsets, k=limits: ops.hard_voxelize(xyz, feats, o, *grid, **k), used[1])
    assert_emulated_same(lambda: ops.dynamic_voxelize(torch.full((size, 3), 9.0), ragged(size), *grid), used[0])  # nothing in range


@covers("scatter_sum", "scatter_max")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scatter(size, dtype, used, generator):
    values, index = torch.randn(size, 3, generator=generator).to(dtype), torch.randint(0, 40, (size,), generator=generator)
    values[size // 2, 1], values[size // 3, 0] = float("nan"), values[0, 0]

    def compute():
        leaf = values.clone().requires_grad_()
        outputs = [function(leaf, index, 41) for function in (ops.scatter_sum, ops.scatter_mean, ops.scatter_max)]
        sum(out.nan_to_num().square().sum() for out in outputs).backward()
        return *(out.detach() for out in outputs), leaf.grad

    assert_emulated_same(compute, *used)


@covers("submanifold_map", "strided_map", "sparse_conv", "sparse_conv_input_grad", "sparse_conv_weight_grad")
@pytest.mark.parametrize(("voxels", "channels"), [(0, (3, 5)), (1, (1, 1)), (63, (16, 64)), (65, (17, 65)), (129, (4, 130))])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 2)])
def test_sparse_convolution(voxels, channels, kernel, used, generator):
    coords = random_coords((5, 8, 9), 3, voxels, generator)
    feats, weight = torch.randn(voxels, channels[0], generator=generator), torch.randn(channels[1], *kernel, channels[0], generator=generator)
    bias = torch.randn(channels[1], generator=generator)
    place = {"spatial_shape": (5, 8, 9), "batch_size": 3, "kernel": kernel}

    def compute():
        results = []
        tables = [ops.strided_map(coords, stride=(2, 1, 2), padding=(1, 1, 0), **place)]
        tables += [ops.submanifold_map(coords, **place)] if all(k % 2 for k in kernel) else []
        for table in tables:
            leaves = [t.clone().requires_grad_() for t in (feats, weight, bias)]
            out = ops.sparse_conv(*leaves, table)
            (out * out.detach()).sum().backward()
            results += [table.coords, table.forward, table.backward, out.detach(), *(leaf.grad for leaf in leaves)]
        return tuple(results)

    assert_emulated_same(compute, *(used[1:] if kernel[2] == 2 else used), tolerance=1e-4, seeds=1)


@covers("sparse_conv_weight_grad")
def test_weight_gradients_of_several_pieces(used, generator):
    """4,096 rows and more are summed in pieces."""
    coords = random_coords((20, 24, 24), 1, 4200, generator)
    table = ops.submanifold_map(coords, spatial_shape=(20, 24, 24), batch_size=1, kernel=(3, 1, 1))
    feats, grad = torch.randn(4200, 3, generator=generator), torch.randn(4200, 5, generator=generator)
    assert_emulated_same(lambda: (torch.ops.suite3d.sparse_conv_weight_grad(feats, grad, table.forward),), *used, tolerance=1e-4)
