"""The searches and maps of the CUDA kernels, in the emulator, give what the CPU kernels give: rows to the last one, distances to the last bit.

Sizes are chosen for the ways that the kernels take: tiles of points up to a mean of 1,024 points a cloud (8,192 where there are few
queries), leaves above; warps of queries for Chamfer up to 256 points, pairs of clouds above, leaves from 2^27 pairs on.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from suite3d import ops
from tests.ops import cuda_emulator
from tests.ops.clouds import KINDS, cloud
from tests.ops.test_kernel_map import STRIDES, edge_on

pytestmark = pytest.mark.skipif(bool(cuda_emulator.why_not()), reason=f"needs the CUDA emulator: {cuda_emulator.why_not()}")
LARGE = 8200  # beyond what is compared with every point


@pytest.fixture(autouse=True)
def compiled(compiled_cpu: None) -> None:
    """The other side of every comparison."""


def assert_same(compute: Callable[[], tuple[Tensor, ...]]) -> None:
    expected = compute()
    with cuda_emulator.emulated():
        found = compute()
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)


def ragged(*sizes: int) -> Tensor:
    return torch.tensor([0, *sizes]).cumsum(0)


@pytest.mark.parametrize("k", [1, 3, 4, 5, 16, 17, 32, 33, 64, 65])
@pytest.mark.parametrize("size", [31, 33, 1024, 1025])
def test_tiles(k, size):
    points, query = cloud("grid", size, 0), cloud("grid", 70, 1)
    assert_same(lambda: ops.knn(query, points, k))
    assert_same(lambda: ops.ball_query(query, points, 2.1, k))


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_ragged_clouds(kind):
    sizes, queries = (0, 1, 31, 32, 33, 0, 1023, 1024, 1025), (5, 33, 0, 64, 1, 2, 40, 31, 32)
    ends = {"query_offsets": ragged(*queries), "point_offsets": ragged(*sizes)}
    points, query = cloud(kind, sum(sizes), 0), cloud(kind, sum(queries), 1)
    points[40, 0], points[70], query[3, 2], query[50, 1] = torch.nan, torch.inf, -torch.inf, torch.nan
    assert_same(lambda: ops.knn(query, points, 9, **ends))
    assert_same(lambda: ops.ball_query(query, points, 0.7, 9, **ends))


@pytest.mark.parametrize("queries", [17000, 40000, 140000])
def test_more_queries_take_fewer_slices(queries, generator):
    query, points = torch.randn(queries, 3, generator=generator), torch.randn(20, 3, generator=generator)
    assert_same(lambda: ops.knn(query, points, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_leaves(kind):
    points, query = cloud(kind, LARGE, 0), cloud(kind, 100, 1)
    points[40, 0], points[70], points[LARGE - 1, 2], query[3, 2] = torch.nan, torch.inf, -torch.inf, torch.nan
    assert_same(lambda: ops.knn(query, points, 16))
    assert_same(lambda: ops.ball_query(query, points, 0.3, 16))


@pytest.mark.parametrize("k", [1, 4, 5, 17, 33, 64])
def test_leaves_for_every_length(k):
    points, query = cloud("normal", LARGE, 0), cloud("normal", 40, 1)
    assert_same(lambda: ops.knn(query, points, k))
    assert_same(lambda: ops.ball_query(query, points, 0.4, k))


@pytest.mark.parametrize("kind", ["grid", "clusters", "same"])
def test_leaves_of_the_queries_themselves(kind):
    points = cloud(kind, LARGE, 0)
    if kind == "same":
        points = points[: LARGE // 2].repeat(2, 1) + torch.arange(LARGE)[:, None] // 100  # each place a hundred times
    points[17] = torch.nan
    assert_same(lambda: ops.knn(points, points, 16))


def test_leaves_of_ragged_clouds(generator):
    sizes, queries = (31, 0, 32, 33, 1023, 1024, 1025, 65000), (40, 7, 0, 33, 70, 64, 1, 90)
    ends = {"query_offsets": ragged(*queries), "point_offsets": ragged(*sizes)}
    points, query = torch.randn(sum(sizes), 3, generator=generator), torch.randn(sum(queries), 3, generator=generator)
    points[:31] = torch.nan
    assert_same(lambda: ops.knn(query, points, 35, **ends))
    assert_same(lambda: ops.ball_query(query, points, 0.4, 4, **ends))


def test_leaves_far_apart(generator):
    """A cloud whose parts, and whose queries, lie where float32 holds metres only."""
    points, query = torch.randn(LARGE, 3, generator=generator), torch.randn(64, 3, generator=generator)
    points[::2] += 3e7
    query[::2] -= 2e7
    assert_same(lambda: ops.knn(query, points, 5))
    assert_same(lambda: ops.ball_query(points[:40], points, 9.0, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes_a", "sizes_b"), [((31, 32, 33, 0, 7, 256), (64, 65, 5, 9, 0, 1)), ((0, 1023, 1025, 6), (300, 255, 257, 0))])
def test_chamfer_of_groups_and_pairs(kind, sizes_a, sizes_b):
    a, b = cloud(kind, sum(sizes_a), 0), cloud(kind, sum(sizes_b), 1)
    a[2, 1], b[80], b[3, 0] = torch.nan, torch.inf, torch.nan
    assert_same(lambda: ops.chamfer_distance(a, b, a_offsets=ragged(*sizes_a), b_offsets=ragged(*sizes_b)))


@pytest.mark.parametrize(("sizes_a", "sizes_b"), [((11700,), (11700,)), ((16400, 0), (16300, 100))])
def test_chamfer_of_leaves(sizes_a, sizes_b):
    a, b = cloud("grid", sum(sizes_a), 0), cloud("grid", sum(sizes_b), 1)
    a[5], b[7, 2] = torch.nan, torch.inf
    b[::3] += 0.25
    assert_same(lambda: ops.chamfer_distance(a, b, a_offsets=ragged(*sizes_a), b_offsets=ragged(*sizes_b)))


def voxels(kind: str, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """``(V, 4)`` int32 voxels of three scans: all, those on the faces, 255 to 257 of them, none."""
    if kind == "faces":
        return edge_on(shape, 3)
    full = torch.cartesian_prod(*map(torch.arange, (3, *shape))).int()
    return full if kind == "all" else full[torch.randperm(len(full), generator=generator)[: int(kind)].sort().values]


@pytest.mark.parametrize("kind", ["all", "faces", "255", "256", "257", "1", "0"])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 1, 3), (1, 1, 1), (3, 5, 7)])
def test_kernel_maps(kind, kernel, generator):
    shape = (4, 6, 20)
    coords = voxels(kind, shape, generator)
    assert_same(lambda: (ops.submanifold_map(coords, spatial_shape=shape, batch_size=3, kernel=kernel).forward,))
    for stride, padding in STRIDES:
        if any(size + 2 * pad < window for size, pad, window in zip(shape, padding, kernel, strict=True)):
            continue

        def strided(stride=stride, padding=padding):
            found = ops.strided_map(coords, spatial_shape=shape, batch_size=3, kernel=kernel, stride=stride, padding=padding)
            return found.coords, found.forward, found.backward

        assert_same(strided)


def test_kernel_maps_of_a_grid_beyond_32_bits(generator):
    shape = (40, 60000, 60000)
    corner = (torch.rand(300, 1, 3, generator=generator) * (torch.tensor(shape) - 3)).long()
    place = (corner + torch.cartesian_prod(*[torch.arange(3)] * 3)[torch.randperm(27, generator=generator)[:9]]).reshape(-1, 3)
    keys = ((place[:, 0] * shape[1] + place[:, 1]) * shape[2] + place[:, 2]).unique()
    coords = torch.stack([0 * keys, keys // (shape[1] * shape[2]), keys // shape[2] % shape[1], keys % shape[2]], dim=1).int()
    assert_same(lambda: (ops.submanifold_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3)).forward,))

    def strided():
        found = ops.strided_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3), stride=(1, 1, 2), padding=(1, 1, 1))
        return found.coords, found.forward, found.backward

    assert_same(strided)


def boxes_about(count: int, spread: float, generator: torch.Generator) -> Tensor:
    low, high = torch.tensor([-spread, -spread, -1, 1, 1, 1, -9]), torch.tensor([spread, spread, 1, 5, 3, 2, 9])
    return low + torch.rand(count, 7, generator=generator) * (high - low)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200, 4096, 4097])
@pytest.mark.parametrize("spread", [6.0, 60.0, 600.0])
def test_suppression(count, spread, generator):
    """From boxes that all meet to boxes that do not, over the limits of words of 64 and strips of 4,096 boxes."""
    if count > 200 and spread < 60:
        pytest.skip("too many pairs for the emulator")
    boxes, scores = boxes_about(count, spread, generator), torch.rand(count, generator=generator)
    boxes[: count // 40, 3] = torch.nan
    boxes[count // 2 : count // 2 + 3, :2] = boxes[:1, :2]
    for threshold, most in ((0.2, None), (0.0, 70), (0.9, count - 1))[: 3 if count <= 200 else 1]:
        assert_same(lambda threshold=threshold, most=most: (ops.nms_rotated(boxes, scores, threshold, max_keep=most),))


@pytest.mark.parametrize("points", [0, 1, 127, 128, 300])
@pytest.mark.parametrize("count", [0, 1, 128, 130, 257])
def test_points_in_boxes(points, count, generator):
    boxes, xyz = boxes_about(count, 9.0, generator), torch.rand(points, 3, generator=generator) * 20 - 10
    boxes[:2, 3], boxes[2:3, 0], xyz[:1, 1] = -1.0, torch.nan, torch.nan
    boxes[3:5], xyz[5:8] = torch.tensor([1.0, 2, 0, 4, 2, 2, 0]), torch.tensor([[3.0, 3, 1], [-1.0, 1, -1], [3.0001, 3, 1]])[: max(0, points - 5)]
    assert_same(lambda: (ops.points_in_boxes(xyz, boxes), ops.points_in_boxes_mask(xyz, boxes)))


@pytest.mark.parametrize("size", [0.5, 1e-5])
@pytest.mark.parametrize("limits", [(1, 3), (5, 100), (40, 10**6)])
def test_voxels(size, limits, generator):
    """Keys of 32 bits and of 64, clouds without points or without points in range."""
    xyz, feats, offsets = torch.randn(3000, 3, generator=generator), torch.randn(3000, 2, generator=generator), ragged(0, 900, 50, 0, 2050)
    xyz[900:950] += 99
    xyz[::7], xyz[5] = xyz[1:2], torch.nan
    place = ((-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), (size, size, 0.5))
    assert_same(lambda: ops.dynamic_voxelize(xyz, offsets, *place))
    assert_same(lambda: ops.hard_voxelize(xyz, feats, offsets, *place, max_points=limits[0], max_voxels=limits[1]))
    assert_same(lambda: ops.hard_voxelize(xyz[900:950], feats[900:950], ragged(50), *place, max_points=2, max_voxels=9))
