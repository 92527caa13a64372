"""CPU geometry ops on a 120,000-point scan beside what else is importable (scipy, open3d, shapely, mmcv, OpenPCDet, ...).

``python benchmarks/ops_cpu_geometry.py [--threads 2] [--save]`` prints medians of wall time in milliseconds, and with ``--save`` writes
``benchmarks/results/ops_cpu_geometry.json``. The scan is that of ``ops_cpu.py``. CPU time is printed too: on a shared machine it is the
steadier number (all threads together).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from interleaved import measure, times_faster  # noqa: E402
from machine import describe  # noqa: E402
from ops_cpu import scan  # noqa: E402

import suite3d.ops as ops  # noqa: E402
from suite3d.ops.curves import CurveName  # noqa: E402

Run = Callable[[], object]
CURVES: tuple[CurveName, ...] = ("z", "hilbert")


@dataclass(frozen=True)
class Row:
    """One op or peer: median wall milliseconds, the least CPU milliseconds, and how many times ours it takes (wall, median over the rounds)."""

    name: str
    who: str
    wall: float
    cpu: float
    ratio: float


def compare(name: str, ours: Run, peers: dict[str, Run], *, repeats: int = 9) -> list[Row]:
    """Ours and the peers in turns."""
    runs = {"suite3d": ours, **peers}
    times = measure({who: lambda _, run=run: run() for who, run in runs.items()}, rounds=repeats, device=torch.device("cpu"), pause=0.005)  # type: ignore[misc]
    rows = []
    for who, pairs in times.items():
        wall, ratio = 1e3 * statistics.median(w for w, _ in pairs), times_faster(pairs, times["suite3d"])
        rows.append(Row(name, who, wall, 1e3 * min(cpu for _, cpu in pairs), ratio))
        print(f"{name:36s} {who:24s} {wall:10.2f} {rows[-1].cpu:10.2f} " + ("" if who == "suite3d" else f"{ratio:9.2f}x"), flush=True)
    return rows


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def subset(points: Tensor, count: int, seed: int = 0) -> Tensor:
    """A random subset, order kept."""
    rows = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return points[rows].contiguous()


def sampling_rows(points: Tensor) -> list[Row]:
    rows = []
    for size, count in ((8192, 1024), (16384, 1024), (65536, 4096), (120000, 16384)):
        cloud, offsets = subset(points, size), torch.tensor([0, size])
        peers: dict[str, Run] = {}
        if has("open3d") and size * count < 10**8:
            import open3d

            legacy = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(cloud.double().numpy()))
            peers["open3d (legacy)"] = partial(legacy.farthest_point_down_sample, count)
        if has("fpsample"):
            import fpsample

            for height in (3, 5, 7, 9):
                sample = partial(fpsample.bucket_fps_kdline_sampling, cloud.numpy(), count, height, start_idx=0)
                peers[f"fpsample kdline h={height}"] = sample
        rows += compare(f"furthest points {size} -> {count}", partial(ops.furthest_point_sample, cloud, offsets, count), peers)
    batch, offsets = subset(points, 8192).repeat(32, 1), torch.arange(33) * 8192
    rows += compare("furthest points 32 x (8192 -> 512)", lambda: ops.furthest_point_sample(batch, offsets, 512), {})
    return rows


def neighbour_rows(points: Tensor, threads: int) -> list[Row]:
    rows = []
    for label, query, cloud, k in (
        ("8192 self, k 16", subset(points, 8192), None, 16),
        ("4096 of 65536, k 32", subset(points, 4096, 1), subset(points, 65536), 32),
        ("120000 self, k 16", points, None, 16),
        ("120000 self, k 32", points, None, 32),
    ):
        cloud = query if cloud is None else cloud
        peers: dict[str, Run] = {}
        if has("scipy"):
            from scipy.spatial import cKDTree

            def with_tree(q: Tensor = query, c: Tensor = cloud, k: int = k) -> object:
                return cKDTree(c.numpy()).query(q.numpy(), k, workers=threads)

            peers["scipy cKDTree"] = with_tree
        if has("pykdtree"):
            from pykdtree.kdtree import KDTree

            peers["pykdtree"] = lambda q=query, c=cloud, k=k: KDTree(c.numpy()).query(q.numpy(), k)  # type: ignore[misc]
        if has("pynanoflann"):
            import pynanoflann

            def flann(q: Tensor = query, c: Tensor = cloud, k: int = k) -> object:
                tree = pynanoflann.KDTree(n_neighbors=k, metric="L2", leaf_size=20)
                tree.fit(c.numpy())
                return tree.kneighbors(q.numpy(), n_jobs=threads)

            peers["pynanoflann"] = flann
        if has("open3d"):
            import open3d

            def search(q: Tensor = query, c: Tensor = cloud, k: int = k) -> object:
                index = open3d.core.nns.NearestNeighborSearch(open3d.core.Tensor(c.numpy()))
                index.knn_index()
                return index.knn_search(open3d.core.Tensor(q.numpy()), k)

            peers["open3d nns"] = search
        rows += compare(f"knn {label}", partial(ops.knn, query, cloud, k), peers)
    query, cloud = subset(points, 15000, 1), points
    ball: dict[str, Run] = {}
    if has("torch_cluster"):
        from torch_cluster import radius

        ball["torch_cluster"] = partial(radius, cloud, query, 0.4, max_num_neighbors=32, num_workers=threads)
    if has("scipy"):
        from scipy.spatial import cKDTree

        ball["scipy query_ball_point"] = lambda: cKDTree(cloud.numpy()).query_ball_point(query.numpy(), 0.4, workers=threads)
    return rows + compare("ball query 0.4 m, 15000 of 120000", lambda: ops.ball_query(query, cloud, 0.4, 32), ball)


def chamfer_rows(points: Tensor, threads: int) -> list[Row]:
    a, b = subset(points, 8192, 1), subset(points, 8192, 2)
    peers: dict[str, Run] = {}
    if has("scipy"):
        from scipy.spatial import cKDTree

        peers["scipy cKDTree, twice"] = lambda: [cKDTree(y.numpy()).query(x.numpy(), workers=threads) for x, y in ((a, b), (b, a))]
    if has("open3d"):
        from open3d.core import Tensor as Array
        from open3d.t.geometry import Metric, MetricParameters, PointCloud

        first_cloud, second_cloud = (PointCloud(Array(cloud.numpy())) for cloud in (a, b))
        peers["open3d compute_metrics"] = lambda: first_cloud.compute_metrics(second_cloud, [Metric.ChamferDistance], MetricParameters())

    def cdist() -> object:
        matrix = torch.cdist(a, b)
        return matrix.min(0), matrix.min(1)

    rows = compare("chamfer 8192 x 8192", lambda: ops.chamfer_distance(a, b), {**peers, "torch.cdist, min": cdist})
    first, second = a.clone().requires_grad_(), b.clone().requires_grad_()

    def both() -> None:
        d2_ab, d2_ba, *_ = ops.chamfer_distance(first, second)
        (d2_ab.mean() + d2_ba.mean()).backward()

    rows += compare("chamfer 8192 x 8192, with backward", both, {})
    for clouds, size in ((8, 1024), (3328, 32)):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.rand(clouds, size, 3, generator=generator), torch.rand(clouds, size, 3, generator=generator)
        ends, flat_x, flat_y = torch.arange(clouds + 1) * size, x.flatten(0, 1), y.flatten(0, 1)

        def batched(x: Tensor = x, y: Tensor = y) -> object:
            matrix = torch.cdist(x, y)
            return matrix.min(1), matrix.min(2)

        def jagged(x: Tensor = flat_x, y: Tensor = flat_y, ends: Tensor = ends) -> object:
            return ops.chamfer_distance(x, y, a_offsets=ends, b_offsets=ends)

        rows += compare(f"chamfer {clouds} x {size}^2", jagged, {"torch.cdist, min": batched})
    return rows


def random_boxes(count: int, spread: float, seed: int) -> Tensor:
    """Car-like boxes in a square."""
    rng = np.random.default_rng(seed)
    columns = [rng.uniform(-spread, spread, (count, 2)), rng.uniform(-1, 1, (count, 1)), rng.uniform([3, 1.5, 1.4], [5, 2.5, 2], (count, 3))]
    return torch.from_numpy(np.concatenate([*columns, rng.uniform(-np.pi, np.pi, (count, 1))], axis=1).astype(np.float32))


def flat(boxes: Tensor) -> Tensor:
    """x, y, length, width, yaw."""
    return boxes[:, [0, 1, 3, 4, 6]].contiguous()


def polygons(boxes: Tensor) -> object:
    import shapely

    x, y, _, length, width, _, yaw = boxes.double().numpy().T
    u, v = np.array([1, -1, -1, 1]) * length[:, None] / 2, np.array([1, 1, -1, -1]) * width[:, None] / 2
    cosine, sine = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    return shapely.polygons(np.stack([x[:, None] + u * cosine - v * sine, y[:, None] + u * sine + v * cosine], axis=-1))


def box_rows(points: Tensor) -> list[Row]:
    rows = []
    for label, spread in (("spread", 70.0), ("dense", 10.0)):
        a, b = random_boxes(500, spread, 0), random_boxes(500, spread, 1)
        peers: dict[str, Run] = {}
        if has("shapely"):
            import shapely

            def with_tree(a: Tensor = a, b: Tensor = b) -> object:
                first, second = polygons(a), polygons(b)
                i, j = shapely.STRtree(second).query(first, predicate="intersects")
                return shapely.area(shapely.intersection(np.asarray(first)[i], np.asarray(second)[j]))

            peers["shapely STRtree"] = with_tree
        if has("pcdet"):
            from pcdet.ops.iou3d_nms import iou3d_nms_cuda

            peers["OpenPCDet"] = partial(iou3d_nms_cuda.boxes_iou_bev_cpu, a, b, torch.empty(len(a), len(b)))
        if has("mmcv"):
            from mmcv.ops import box_iou_rotated

            peers["mmcv"] = partial(box_iou_rotated, flat(a), flat(b))
        rows += compare(f"box_iou_bev 500 x 500, {label}", partial(ops.box_iou_bev, a, b), peers)
    spread_boxes, scores = random_boxes(5000, 70.0, 2), torch.rand(5000, generator=torch.Generator().manual_seed(0))
    generator = np.random.default_rng(0)
    clustered = random_boxes(125, 70.0, 3)[torch.from_numpy(generator.integers(0, 125, 5000))]
    clustered = clustered + torch.from_numpy(generator.normal(0, [0.3, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1], (5000, 7)).astype(np.float32))
    for label, crowd in (("spread", spread_boxes), ("clustered", clustered)):
        suppress: dict[str, Run] = {}
        if has("mmcv"):
            from mmcv.ops import nms_rotated

            suppress["mmcv"] = partial(nms_rotated, flat(crowd), scores, 0.1)
        rows += compare(f"nms_rotated 5000 {label}", partial(ops.nms_rotated, crowd, scores, 0.1), suppress)
    boxes = random_boxes(100, 60.0, 4)
    rows += compare("points_in_boxes 100 x 120000", lambda: ops.points_in_boxes(points, boxes), {})
    inside: dict[str, Run] = {}
    if has("mmcv"):
        from mmcv.ops import points_in_boxes_cpu

        standing = torch.cat([boxes[:, :2], boxes[:, 2:3] - boxes[:, 5:6] / 2, boxes[:, 3:]], dim=1)  # z of the bottom, as there
        inside["mmcv"] = partial(points_in_boxes_cpu, points[None], standing[None])
    return rows + compare("points_in_boxes_mask 100 x 120000", lambda: ops.points_in_boxes_mask(points, boxes), inside)


def curve_rows(points: Tensor) -> list[Row]:
    cells = ((points - points.amin(0)) / 0.05).int()
    rows = []
    for curve in CURVES:

        def by_argsort(curve: CurveName = curve) -> object:
            return ops.curve_codes(cells, curve).argsort()

        rows += compare(f"curve_order {curve}, {len(cells)} cells", partial(ops.curve_order, cells, curve), {"own codes, torch.argsort": by_argsort})
    return rows


def ray_rows(points: Tensor) -> list[Row]:
    grid = ((-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), (0.2, 0.2, 0.2))
    beams = partial(ops.traverse_voxels, torch.zeros(1, 3).expand_as(points), points, *grid, include_end=False)
    return compare(f"traverse_voxels, {len(beams()[0]) / 1e6:.1f}M voxels", beams, {})


def roi_rows(points: Tensor) -> list[Row]:
    boxes, keypoints = random_boxes(128, 40.0, 5), subset(points, 4096, 3)
    feats = torch.randn(len(keypoints), 128, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pool = partial(ops.roi_grid_pool, boxes, keypoints, feats, grid_size=6, radius=1.6, k=16)

    def both() -> None:
        pool()[0].sum().backward()

    rows = compare("roi_grid_pool 128 x 216, 4096 points", both, {})
    grid, size = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), (0.4, 0.4, 0.4)
    coords, row, order = ops.dynamic_voxelize(points, torch.tensor([0, len(points)]), grid, size)
    level = ops.SparseTensor(coords=coords, feats=ops.scatter_mean(points[order], row, len(coords)), spatial_shape=(20, 256, 256), batch_size=1)
    look_up = partial(ops.roi_grid_pool_voxels, boxes, level, start=grid[:3], voxel_size=size, grid_size=6, distance=4, k=16)
    return rows + compare(f"roi_grid_pool_voxels, {len(coords)} voxels", look_up, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ops_cpu_geometry.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    points, source = scan()
    points = points[:, :3].contiguous()
    machine = describe()
    print(f"{json.dumps(machine, indent=1)}\nscan: {source}; compiled: {ops.compiled('cpu')} {ops.load_errors().get('cpu', '')}")
    print(f"{'ms':36s} {'who':24s} {'wall':>10s} {'cpu':>10s} {'wall ratio':>10s}")
    rows = sampling_rows(points) + neighbour_rows(points, options.threads) + chamfer_rows(points, options.threads) + box_rows(points)
    rows += curve_rows(points) + ray_rows(points) + roi_rows(points)
    if options.save:
        target = Path(__file__).parent / "results" / "ops_cpu_geometry.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({**machine, "scan": source, "rows": [asdict(row) for row in rows]}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
