"""The ops beside other people's libraries: scipy, shapely, open3d, torch_cluster, pytorch3d, spconv, MinkowskiEngine.

Every test names its oracle and is skipped where that cannot be imported; none is required. Of these, scipy and shapely come with the
``dev`` extra and open3d with ``view``; the others have to be built for the torch at hand.
"""

from __future__ import annotations

import importlib
import os

import numpy as np
import pytest
import torch

import suite3d.ops as ops

RANGE, SIZE, SHAPE = (-8.0, -8.0, -2.0, 8.0, 8.0, 2.0), (0.5, 0.5, 0.25), (16, 32, 32)


@pytest.fixture
def peer(request):
    """The library that the test's first mark names, or a skip that says why not."""
    name = request.param
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: built for another torch
        pytest.skip(f"the oracle {name} cannot be imported here: {error}")


def oracle(name):
    return pytest.mark.parametrize("peer", [name], indirect=True)


def ground_and_objects(count, seed=0):
    """``(count, 3)`` float32: half on a noisy plane, half in clusters, as a scan of a street has it."""
    rng = np.random.default_rng(seed)
    ground = np.stack([rng.uniform(-8, 8, count), rng.uniform(-8, 8, count), rng.normal(-1, 0.02, count)], axis=1)
    clusters = rng.uniform([-7, -7, -1], [7, 7, 1], (12, 3))[rng.integers(0, 12, count)] + rng.normal(0, 0.3, (count, 3))
    return torch.from_numpy(np.where(rng.random((count, 1)) < 0.5, ground, clusters).astype(np.float32))


def two_clouds():
    """Points, cloud number of each, offsets."""
    return ground_and_objects(1500), torch.tensor([0] * 600 + [1] * 900), torch.tensor([0, 600, 1500])


def random_boxes(count, seed, spread=8.0):
    rng = np.random.default_rng(seed)
    low, high = [-spread, -spread, -1, 0.5, 0.5, 1, -4], [spread, spread, 1, 5, 2.5, 2.5, 4]
    return torch.from_numpy(rng.uniform(low, high, (count, 7)).astype(np.float32))


def box_corners(boxes):
    """``(N, 8, 3)`` float64: the bottom face counter-clockwise, then the top face."""
    unit = np.array([[1, 1, -1], [-1, 1, -1], [-1, -1, -1], [1, -1, -1], [1, 1, 1], [-1, 1, 1], [-1, -1, 1], [1, -1, 1]]) / 2
    boxes = boxes.double().numpy()
    local = unit * boxes[:, None, 3:6]
    cosine, sine = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x, y = local[..., 0] * cosine - local[..., 1] * sine, local[..., 0] * sine + local[..., 1] * cosine
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def overlaps_of_shapely(shapely, first, second):
    """``(N, M)`` shared bird's-eye area of all pairs, and the areas of both."""
    a, b = (shapely.polygons(box_corners(boxes)[:, :4, :2]) for boxes in (first, second))
    return shapely.area(shapely.intersection(a[:, None], b[None])), shapely.area(a), shapely.area(b)


@oracle("scipy.spatial")
def test_knn_is_scipys(peer, backend):
    points, query = ground_and_objects(3000), ground_and_objects(200, 1)
    index, distance2 = ops.knn(query, points, 6)
    distance, rows = peer.cKDTree(points.double().numpy()).query(query.double().numpy(), 6)
    np.testing.assert_allclose(distance2.sqrt().numpy(), distance, rtol=1e-4, atol=1e-6)
    assert (index.numpy() == rows).mean() > 0.995  # rounding may swap neighbours at almost one distance


@oracle("scipy.spatial")
def test_ball_query_is_scipys(peer, backend):
    points, query = ground_and_objects(2000), ground_and_objects(150, 1)
    index, count = ops.ball_query(query, points, 0.6, 20)
    inside = peer.cKDTree(points.double().numpy()).query_ball_point(query.double().numpy(), 0.6, return_sorted=True)
    for row, found, number in zip(inside, index, count, strict=True):
        assert found[: int(number)].tolist() == row[:20]
    assert 0 < int((count == 20).sum()) < len(query)  # some balls overflow, some do not


@oracle("scipy.spatial")
def test_chamfer_is_scipys(peer, backend):
    a, b = ground_and_objects(900), ground_and_objects(700, 1)
    d2_ab, d2_ba, *_ = ops.chamfer_distance(a, b)
    for got, first, second in ((d2_ab, a, b), (d2_ba, b, a)):
        distance, _ = peer.cKDTree(second.double().numpy()).query(first.double().numpy())
        np.testing.assert_allclose(got.sqrt().numpy(), distance, rtol=1e-4, atol=1e-6)


@oracle("scipy.sparse")
def test_scatter_is_scipys_matrix_product(peer, backend, generator):
    values, index = torch.randn(500, 7, generator=generator), torch.randint(0, 60, (500,), generator=generator)
    matrix = peer.csr_matrix((np.ones(500), (index.numpy(), np.arange(500))), shape=(60, 500))
    total = matrix @ values.double().numpy()
    np.testing.assert_allclose(ops.scatter_sum(values, index, 60).numpy(), total, atol=1e-5)
    counts = np.maximum(np.asarray(matrix.sum(axis=1)), 1)
    np.testing.assert_allclose(ops.scatter_mean(values, index, 60).numpy(), total / counts, atol=1e-5)


@oracle("shapely")
def test_overlap_of_many_boxes_is_shapelys(peer, backend):
    """Dense and spread scenes: pairs that a broad phase may skip must be none that overlap."""
    for spread in (6.0, 60.0):
        first, second = random_boxes(150, 0, spread), random_boxes(170, 1, spread)
        overlap, area_a, area_b = overlaps_of_shapely(peer, first, second)
        assert abs(ops.box_overlap_bev(first, second).numpy() - overlap).max() < 2e-6
        assert abs(ops.box_iou_bev(first, second).numpy() - overlap / (area_a[:, None] + area_b - overlap)).max() < 1e-6
        assert (overlap > 0).sum() > 20


@oracle("shapely")
def test_nms_is_the_greedy_loop_over_shapely(peer, backend, generator):
    boxes = random_boxes(40, 2, 30.0)[torch.randint(0, 40, (300,), generator=generator)]
    boxes = boxes + torch.randn(300, 7, generator=generator) * torch.tensor([0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1])
    scores = torch.rand(300, generator=generator)
    overlap, area, _ = overlaps_of_shapely(peer, boxes, boxes)
    iou = overlap / (area[:, None] + area - overlap)
    for threshold in (0.1, 0.5):
        kept: list[int] = []
        for row in scores.argsort(descending=True, stable=True).tolist():
            if all(iou[other, row] <= threshold for other in kept):
                kept.append(row)
        assert ops.nms_rotated(boxes, scores, threshold).tolist() == kept


@oracle("open3d")
def test_furthest_points_are_open3ds(peer, backend):
    points = ground_and_objects(1200)
    cloud = peer.geometry.PointCloud(peer.utility.Vector3dVector(points.double().numpy()))
    chosen = points[ops.furthest_point_sample(points, torch.tensor([0, 1200]), 150)]
    theirs = np.asarray(cloud.farthest_point_down_sample(150).points).astype(np.float32)
    assert {tuple(p) for p in chosen.tolist()} == {tuple(p) for p in theirs.tolist()}


@oracle("open3d")
def test_neighbours_are_open3ds(peer, backend):
    points, query = ground_and_objects(2000), ground_and_objects(150, 1)
    search = peer.core.nns.NearestNeighborSearch(peer.core.Tensor(points.numpy()))
    search.knn_index()
    rows, distance2 = (value.numpy() for value in search.knn_search(peer.core.Tensor(query.numpy()), 9))
    index, ours = ops.knn(query, points, 9)
    np.testing.assert_allclose(ours.numpy(), distance2, rtol=1e-4, atol=1e-6)
    assert (index.numpy() == rows).mean() > 0.995
    search.fixed_radius_index(0.5)
    rows, _, splits = (value.numpy() for value in search.fixed_radius_search(peer.core.Tensor(query.numpy()), 0.5))
    found, count = ops.ball_query(query, points, 0.5, 2000)
    for i in range(len(query)):
        assert found[i, : int(count[i])].tolist() == sorted(rows[splits[i] : splits[i + 1]].tolist())


@oracle("open3d")
def test_voxel_means_are_open3ds(peer, backend):
    points = ground_and_objects(4000)
    points = points[((points > torch.tensor(RANGE[:3])) & (points < torch.tensor(RANGE[3:]))).all(dim=1)]
    cloud = peer.geometry.PointCloud(peer.utility.Vector3dVector(points.double().numpy()))
    size, low, high = 0.5, np.array(RANGE[:3]), np.array(RANGE[3:])
    means, _, rows = cloud.voxel_down_sample_and_trace(size, low, high)
    theirs = {tuple(sorted(members)): mean for members, mean in zip(rows, np.asarray(means.points), strict=True)}
    coords, row, order = ops.dynamic_voxelize(points, torch.tensor([0, len(points)]), RANGE, (size, size, size))
    ours = ops.scatter_mean(points[order], row, len(coords))
    assert len(coords) == len(theirs)
    for voxel in range(len(coords)):
        np.testing.assert_allclose(ours[voxel].numpy(), theirs[tuple(order[row == voxel].tolist())], atol=1e-5)


@oracle("open3d")
def test_points_in_boxes_are_open3ds(peer, backend):
    points, boxes = ground_and_objects(3000), random_boxes(25, 3)
    mask = ops.points_in_boxes_mask(points, boxes)
    vector = peer.utility.Vector3dVector(points.double().numpy())
    for box, inside in zip(boxes.double(), mask, strict=True):
        rotation = peer.geometry.get_rotation_matrix_from_xyz((0.0, 0.0, float(box[6])))
        theirs = peer.geometry.OrientedBoundingBox(box[:3].numpy(), rotation, box[3:6].numpy())
        assert sorted(theirs.get_point_indices_within_bounding_box(vector)) == inside.nonzero().squeeze(1).tolist()
    assert int(mask.sum()) > 300


@oracle("open3d")
def test_chamfer_is_open3ds(peer, backend):
    a, b = ground_and_objects(900), ground_and_objects(700, 1)
    clouds = [peer.geometry.PointCloud(peer.utility.Vector3dVector(p.double().numpy())) for p in (a, b)]
    d2_ab, d2_ba, *_ = ops.chamfer_distance(a, b)
    np.testing.assert_allclose(d2_ab.sqrt().numpy(), np.asarray(clouds[0].compute_point_cloud_distance(clouds[1])), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(d2_ba.sqrt().numpy(), np.asarray(clouds[1].compute_point_cloud_distance(clouds[0])), rtol=1e-4, atol=1e-6)


@oracle("torch_cluster")
def test_furthest_points_are_torch_clusters(peer, backend):
    points, batch, offsets = two_clouds()
    theirs = peer.fps(points, batch, ratio=0.1, random_start=False)
    assert torch.equal(ops.furthest_point_sample(points, offsets, torch.tensor([60, 90])), theirs)


@oracle("torch_cluster")
def test_neighbours_are_torch_clusters(peer, backend):
    points, batch, offsets = two_clouds()
    query, query_batch, query_offsets = ground_and_objects(120, 1), torch.tensor([0] * 50 + [1] * 70), torch.tensor([0, 50, 120])
    ends = {"query_offsets": query_offsets, "point_offsets": offsets}
    pairs = peer.knn(points, query, 8, batch, query_batch)
    index, distance2 = ops.knn(query, points, 8, **ends)
    theirs = (points[pairs[1]] - query[pairs[0]]).square().sum(dim=1).view(120, 8).sort(dim=1).values
    torch.testing.assert_close(distance2, theirs, rtol=1e-4, atol=1e-6)
    assert (index.sort(dim=1).values == pairs[1].view(120, 8).sort(dim=1).values).double().mean() > 0.995
    pairs = peer.radius(points, query, 0.6, batch, query_batch, max_num_neighbors=1500)
    found, count = ops.ball_query(query, points, 0.6, 1500, **ends)
    for i in range(120):
        assert found[i, : int(count[i])].tolist() == sorted(pairs[1, pairs[0] == i].tolist())


@oracle("pytorch3d.ops")
def test_furthest_points_are_pytorch3ds(peer, backend):
    points, _, offsets = two_clouds()
    padded = torch.zeros(2, 900, 3)
    padded[0, :600], padded[1] = points[:600], points[600:]
    _, rows = peer.sample_farthest_points(padded, torch.tensor([600, 900]), K=80)
    assert torch.equal(ops.furthest_point_sample(points, offsets, 80).view(2, 80), rows + offsets[:-1, None])


@oracle("pytorch3d.ops")
def test_neighbours_are_pytorch3ds(peer, backend):
    points, query = ground_and_objects(1500), ground_and_objects(200, 1)
    theirs = peer.knn_points(query[None], points[None], K=7)
    index, distance2 = ops.knn(query, points, 7)
    torch.testing.assert_close(distance2, theirs.dists[0], rtol=1e-4, atol=1e-6)
    assert (index == theirs.idx[0]).double().mean() > 0.995
    found, _ = ops.ball_query(query, points, 0.7, 16)
    assert torch.equal(found, peer.ball_query(query[None], points[None], K=16, radius=0.7, return_nn=False).idx[0])
    nearest = peer.knn_points(query[None], points[None], K=1).dists[0, :, 0], peer.knn_points(points[None], query[None], K=1).dists[0, :, 0]
    for got, expected in zip(ops.chamfer_distance(query, points)[:2], nearest, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@oracle("pytorch3d.ops")
def test_chamfer_gradient_is_pytorch3ds(peer, backend):
    loss = importlib.import_module("pytorch3d.loss")
    gradients = []
    for ours in (True, False):
        a, b = ground_and_objects(500).requires_grad_(), ground_and_objects(400, 1).requires_grad_()
        if ours:
            d2_ab, d2_ba, *_ = ops.chamfer_distance(a, b)
            value = d2_ab.mean() + d2_ba.mean()
        else:
            value, _ = loss.chamfer_distance(a[None], b[None])
        gradients.append(torch.autograd.grad(value, (a, b)))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@oracle("pytorch3d.ops")
def test_solid_overlap_is_pytorch3ds(peer, backend):
    """pytorch3d clips in float32 and is off by up to 0.04 on 3 of these 2,000 pairs: shapely settles those few."""
    shapely = pytest.importorskip("shapely")
    first, second = random_boxes(40, 0, 4.0), random_boxes(50, 1, 4.0)
    a, b = (torch.from_numpy(box_corners(boxes)).float() for boxes in (first, second))
    _, theirs = peer.box3d_overlap(a, b)
    ours = ops.box_iou_3d(first, second)
    assert int((theirs > 0).sum()) > 100
    apart = (ours - theirs).abs() > 1e-4
    assert int(apart.sum()) <= 5
    overlap, area_a, area_b = overlaps_of_shapely(shapely, first, second)
    (low_a, high_a), (low_b, high_b) = (np.sort(box_corners(boxes)[:, [0, 4], 2], axis=1).T for boxes in (first, second))
    shared = overlap * np.clip(np.minimum(high_a[:, None], high_b) - np.maximum(low_a[:, None], low_b), 0, None)
    exact = shared / ((area_a * (high_a - low_a))[:, None] + area_b * (high_b - low_b) - shared)
    assert abs(ours.numpy() - exact)[apart.numpy()].max(initial=0) < 1e-6


@pytest.fixture
def spconv_on_cpu(monkeypatch):
    """spconv's CPU path asks for a CUDA stream, and its scatter races where OpenMP gives it two threads (it brings its own libgomp)."""
    if os.environ.get("OMP_NUM_THREADS") != "1":
        pytest.skip("spconv's CPU path is wrong with two threads: set OMP_NUM_THREADS=1")
    try:
        modules = [importlib.import_module(f"spconv.pytorch.{name}") for name in ("cppcore", "ops", "utils")]
    except (ImportError, OSError) as error:
        pytest.skip(f"the oracle spconv cannot be imported here: {error}")
    for module in modules:
        monkeypatch.setattr(module, "get_current_stream", lambda: 0)


@oracle("spconv.pytorch.utils")
def test_hard_voxels_are_spconvs(peer, spconv_on_cpu, backend):
    points = torch.cat([ground_and_objects(4000), torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))], dim=1)
    for max_points, max_voxels in ((3, 5000), (5, 300)):
        make = peer.PointToVoxel(
            vsize_xyz=list(SIZE), coors_range_xyz=list(RANGE), num_point_features=4, max_num_voxels=max_voxels, max_num_points_per_voxel=max_points
        )
        theirs = [value.clone() for value in make(points)]
        order = np.lexsort(theirs[1].numpy().T[::-1])
        coords, voxels, counts = ops.hard_voxelize(
            points[:, :3].contiguous(), points[:, 3:].contiguous(), torch.tensor([0, 4000]), RANGE, SIZE, max_points=max_points, max_voxels=max_voxels
        )
        assert torch.equal(coords[:, 1:], theirs[1][order]) and torch.equal(counts.int(), theirs[2][order])
        assert torch.equal(voxels, theirs[0][order])


@oracle("spconv.pytorch")
@pytest.mark.parametrize("kind", ["submanifold", "strided"])
def test_convolution_is_spconvs(kind, peer, spconv_on_cpu, backend, coords_of, generator):
    coords = coords_of(SHAPE, 2, 1500, generator)
    feats, weight = torch.randn(1500, 8, generator=generator), torch.randn(16, 3, 3, 3, 8, generator=generator) * 0.1
    native = peer.ConvAlgo.Native
    if kind == "submanifold":
        theirs, layer = peer.SubMConv3d(8, 16, 3, bias=False, algo=native), ops.SubMConv3d(8, 16, 3, bias=False)
    else:
        theirs, layer = (
            peer.SparseConv3d(8, 16, 3, stride=2, padding=1, bias=False, algo=native),
            ops.SparseConv3d(8, 16, 3, stride=2, padding=1, bias=False),
        )
    results = []
    for module, tensor in (
        (theirs, peer.SparseConvTensor(feats.clone().requires_grad_(), coords, list(SHAPE), 2)),
        (layer, ops.SparseTensor(coords=coords, feats=feats.clone().requires_grad_(), spatial_shape=SHAPE, batch_size=2)),
    ):
        with torch.no_grad():
            module.weight.copy_(weight)
        out = module(tensor)
        out_coords, out_feats = (out.indices, out.features) if module is theirs else (out.coords, out.feats)
        order = np.lexsort(out_coords.numpy().T[::-1])
        ramp = torch.linspace(-1, 1, out_feats.numel()).view_as(out_feats)
        start = tensor.features if module is theirs else tensor.feats
        results.append((out_coords[order], out_feats[order], *torch.autograd.grad((out_feats[order] * ramp).sum(), (start, module.weight))))
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@oracle("MinkowskiEngine")
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (2, 2)])
def test_convolution_is_minkowskis(kernel, stride, peer, backend, coords_of, generator):
    """Its kernel index runs fastest along the first coordinate; (2, 2) is the strided convolution on whose outputs both agree."""
    coords = coords_of(SHAPE, 2, 1200, generator)
    feats, weight = torch.randn(1200, 6, generator=generator), torch.randn(9, *[kernel] * 3, 6, generator=generator) * 0.1
    theirs = peer.MinkowskiConvolution(6, 9, kernel_size=kernel, stride=stride, bias=False, dimension=3)
    with torch.no_grad():
        theirs.kernel.copy_(weight.permute(3, 2, 1, 4, 0).reshape(kernel**3, 6, 9))
    leaf = feats.clone().requires_grad_()
    out = theirs(peer.SparseTensor(leaf, coords))
    order = np.lexsort(out.C.numpy().T[::-1])
    ours = feats.clone().requires_grad_()
    x = ops.SparseTensor(coords=coords, feats=ours, spatial_shape=SHAPE, batch_size=2)
    layer = ops.SubMConv3d(6, 9, kernel, bias=False) if stride == 1 else ops.SparseConv3d(6, 9, kernel, stride=stride, bias=False)
    with torch.no_grad():
        layer.weight.copy_(weight)
    y = layer(x)
    assert torch.equal(y.coords * torch.tensor([1, stride, stride, stride]), out.C[order].int())
    torch.testing.assert_close(y.feats, out.F[order], rtol=1e-4, atol=1e-5)
    ramp = torch.linspace(-1, 1, y.feats.numel()).view_as(y.feats)
    expected, got = torch.autograd.grad((out.F[order] * ramp).sum(), leaf)[0], torch.autograd.grad((y.feats * ramp).sum(), ours)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
