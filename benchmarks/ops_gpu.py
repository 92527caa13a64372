"""GPU ops on a 120,000-point scan: ours, what else is importable, and the time the memory traffic alone would take.

    python benchmarks/ops_gpu.py [--save] [--repeats 50] [--only convolution]
    python benchmarks/ops_gpu.py --tune half tf32        tile sizes of the masked implicit GEMM, instead of the rows

Medians in microseconds by CUDA events, after a warm-up; both sides of a row take turns. ``floor`` is the bytes an op must read and write, or
the multiply-adds of a convolution, at the copy and bf16 matrix rates measured in the same run. ``sync`` says whether a call waits for the device.
``--device cpu`` runs the same rows on the host, to see that they run. With ``--save``: benchmarks/results/ops_gpu.json.
Peers are torch itself, and pytorch3d, torch_cluster and spconv where they import. A sparse convolution is timed as ``sparse_conv`` chooses its
kernels, and beside that with the plain CUDA kernel and with Triton's; the plan that Triton's need once for a map has rows of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import spconv_peer  # noqa: E402
from machine import describe  # noqa: E402
from ops_cpu import POINT_RANGE, SHAPE, VOXEL_SIZE, encoder_runs, scan  # noqa: E402
from ops_cpu_geometry import random_boxes, subset  # noqa: E402
from ops_gpu_tune import tune  # noqa: E402

import suite3d.ops as ops  # noqa: E402
from suite3d.ops.sparse import set_backend  # noqa: E402
from suite3d.ops.sparse.backend import Backend  # noqa: E402
from suite3d.ops.sparse.implicit_gemm import make_plan  # noqa: E402
from suite3d.ops.sparse.implicit_gemm.ops import list_pairs  # noqa: E402

Run = Callable[[], object]


@dataclass
class Case:
    """One op: how to run it, what to run beside it, and the traffic (bytes) or arithmetic (multiply-adds) it cannot do without."""

    name: str
    ours: Run
    peers: dict[str, Run] = field(default_factory=dict)
    traffic: float = 0.0
    macs: float = 0.0


@dataclass(frozen=True)
class Row:
    """Medians in microseconds; ``floor`` 0 where it means nothing."""

    name: str
    ours: float
    floor: float
    sync: bool
    peers: dict[str, float]


def has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def once(run: Run, device: torch.device) -> float:
    """Microseconds of one call."""
    if device.type == "cpu":
        start = time.perf_counter()
        run()
        return 1e6 * (time.perf_counter() - start)
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    run()
    last.record()
    last.synchronize()
    return 1e3 * first.elapsed_time(last)


def medians(runs: dict[str, Run], repeats: int, device: torch.device) -> dict[str, float]:
    """Each in turn, round by round; three rounds of warm-up are left out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 3):
        for name, run in runs.items():
            spent = once(run, device)
            if number >= 3:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def waits(run: Run, device: torch.device) -> bool:
    """Whether a call synchronises host and device."""
    if device.type == "cpu":
        return False
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run()
    torch.cuda.set_sync_debug_mode("default")
    return any("synchroniz" in str(warning.message) for warning in caught)


def rates(device: torch.device) -> tuple[float, float]:
    """(bytes a second read and written by a copy, multiply-adds a second of a bf16 matrix product)."""
    size = 2**28 if device.type == "cuda" else 2**24
    side = 8192 if device.type == "cuda" else 512
    source, target = torch.empty(size, device=device), torch.empty(size, device=device)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    found = medians({"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}, 10, device)
    return 8 * size / (1e-6 * found["copy"]), side**3 / (1e-6 * found["matmul"])


def sampling_cases(points: Tensor) -> Iterator[Case]:
    for size, count, clouds in ((8192, 1024, 1), (8192, 512, 32), (16384, 1024, 1), (65536, 4096, 1), (120000, 16384, 1)):
        cloud = subset(points.cpu(), size).to(points.device).repeat(clouds, 1)
        offsets = (torch.arange(clouds + 1) * size).to(points.device)
        batch = torch.arange(clouds, device=points.device).repeat_interleave(size)
        peers: dict[str, Run] = {}
        if has("pytorch3d"):
            from pytorch3d.ops import sample_farthest_points

            peers["pytorch3d"] = partial(sample_farthest_points, cloud.view(clouds, size, 3), K=count)
        if has("torch_cluster"):
            from torch_cluster import fps

            peers["torch_cluster"] = partial(fps, cloud, batch, count / size, False)
        yield Case(f"furthest points {clouds} x ({size} -> {count})", partial(ops.furthest_point_sample, cloud, offsets, count), peers)


def neighbour_cases(points: Tensor) -> Iterator[Case]:
    for queries, k in ((8192, 16), (120000, 16), (120000, 32)):
        cloud = subset(points.cpu(), queries).to(points.device)
        peers: dict[str, Run] = {}
        if has("pytorch3d"):
            from pytorch3d.ops import knn_points

            peers["pytorch3d"] = partial(knn_points, cloud[None], cloud[None], K=k)
        if has("torch_cluster"):
            from torch_cluster import knn

            peers["torch_cluster"] = partial(knn, cloud, cloud, k)
        if queries <= 8192:
            peers["torch.cdist, topk"] = lambda x=cloud, k=k: torch.cdist(x, x).topk(k, largest=False)  # type: ignore[misc]
        yield Case(f"knn {queries} self, k {k}", partial(ops.knn, cloud, cloud, k), peers, traffic=queries * (24 + 12 * k))
    query = subset(points.cpu(), 15000, 1).to(points.device)
    ball: dict[str, Run] = {}
    if has("pytorch3d"):
        from pytorch3d.ops import ball_query

        ball["pytorch3d"] = partial(ball_query, query[None], points[None], K=32, radius=0.4)
    yield Case("ball query 0.4 m, 15000 of 120000", partial(ops.ball_query, query, points, 0.4, 32), ball, traffic=12 * (15000 + len(points)))
    a, b = (subset(points.cpu(), 8192, seed).to(points.device) for seed in (1, 2))

    def all_pairs() -> object:
        matrix = torch.cdist(a, b)
        return matrix.min(0), matrix.min(1)

    chamfer: dict[str, Run] = {"torch.cdist, min": all_pairs}
    if has("pytorch3d"):
        from pytorch3d.loss import chamfer_distance

        chamfer["pytorch3d"] = partial(chamfer_distance, a[None], b[None])
    yield Case("chamfer 8192 x 8192", partial(ops.chamfer_distance, a, b), chamfer, traffic=40 * 8192)
    for clouds, size in ((3328, 32), (32, 8192)):
        pair = torch.rand(2, clouds, size, 3, generator=torch.Generator().manual_seed(0)).to(points.device)
        ends = (torch.arange(clouds + 1) * size).to(points.device)
        batched: dict[str, Run] = {"pytorch3d": partial(chamfer_distance, *pair)} if has("pytorch3d") else {}
        if clouds * size * size < 2**26:
            batched["torch.cdist, min"] = lambda pair=pair: [torch.cdist(*pair).min(side) for side in (1, 2)]  # type: ignore[misc]
        ours = partial(ops.chamfer_distance, *pair.flatten(1, 2), a_offsets=ends, b_offsets=ends)
        yield Case(f"chamfer {clouds} x {size}^2", ours, batched, traffic=40 * clouds * size)


def box_cases(points: Tensor) -> Iterator[Case]:
    device = points.device
    for label, spread in (("spread", 70.0), ("dense", 10.0)):
        a, b = (random_boxes(500, spread, seed).to(device) for seed in (0, 1))
        yield Case(f"box_iou_bev 500 x 500, {label}", partial(ops.box_iou_bev, a, b), traffic=4 * 500 * 500)
    boxes = random_boxes(5000, 70.0, 2).to(device)
    scores = torch.rand(5000, generator=torch.Generator().manual_seed(0)).to(device)
    yield Case("nms_rotated 5000 spread", partial(ops.nms_rotated, boxes, scores, 0.1))
    close = random_boxes(125, 70.0, 3)[torch.randint(125, (5000,), generator=torch.Generator().manual_seed(1))]
    close = (close + 0.1 * torch.randn(5000, 7, generator=torch.Generator().manual_seed(2))).to(device)
    yield Case("nms_rotated 5000 clustered", partial(ops.nms_rotated, close, scores, 0.1))
    few = random_boxes(100, 60.0, 4).to(device)
    yield Case("points_in_boxes 100 x 120000", partial(ops.points_in_boxes, points, few), traffic=20 * len(points))


def voxel_cases(scanned: Tensor) -> Iterator[Case]:
    xyz, offsets = scanned[:, :3].contiguous(), torch.tensor([0, len(scanned)], device=scanned.device)
    cell = ((xyz - torch.tensor(POINT_RANGE[:3], device=xyz.device)) / torch.tensor(VOXEL_SIZE, device=xyz.device)).floor().long()
    key = (cell[:, 2] * SHAPE[1] + cell[:, 1]) * SHAPE[2] + cell[:, 0]
    unique: dict[str, Run] = {"torch.unique of ready keys": lambda: torch.unique(key, return_inverse=True, return_counts=True)}
    if theirs := spconv_peer.voxel_run(scanned, POINT_RANGE, VOXEL_SIZE):
        unique["spconv PointToVoxel"] = theirs
    voxelise = partial(ops.dynamic_voxelize, xyz, offsets, POINT_RANGE, VOXEL_SIZE)
    coords, row, order = voxelise()
    yield Case("dynamic_voxelize", voxelise, unique, traffic=12 * len(xyz) + 16 * len(coords) + 16 * len(order))
    hard = partial(ops.hard_voxelize, xyz, scanned[:, 3:].contiguous(), offsets, POINT_RANGE, VOXEL_SIZE, max_points=5, max_voxels=150000)
    yield Case("hard_voxelize 5 points", hard, unique, traffic=16 * len(xyz) + (16 + 5 * 16) * len(coords))
    wide = torch.randn(len(order), 64, device=xyz.device)
    into = torch.zeros(len(coords), 64, device=xyz.device)
    add: dict[str, Run] = {"index_add": lambda: into.index_add(0, row, wide)}
    yield Case("scatter_sum 64 channels", partial(ops.scatter_sum, wide, row, len(coords)), add, traffic=256 * (len(order) + len(coords)))
    grid: dict[str, Any] = {"spatial_shape": SHAPE, "batch_size": 1, "kernel": (3, 3, 3)}
    pairs = spconv_peer.map_run(coords, SHAPE)
    submanifold = partial(ops.submanifold_map, coords, **grid)
    yield Case("submanifold_map 3x3x3", submanifold, {"spconv": pairs} if pairs else {}, traffic=(16 + 27 * 4) * len(coords))
    yield Case("strided_map 3x3x3 stride 2", partial(ops.strided_map, coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid))


def under(name: Backend, run: Run) -> Run:
    """The same call with the kernels of a backend."""

    def call() -> object:
        before = set_backend(name)
        try:
            return run()
        finally:
            set_backend(before)

    return call


def with_tf32(run: Run) -> Run:
    """The same call with float32 products allowed to be TF32."""

    def call() -> object:
        setting = torch.backends.cuda.matmul
        before, setting.fp32_precision = setting.fp32_precision, "tf32"
        try:
            return run()
        finally:
            setting.fp32_precision = before

    return call


def backends(device: torch.device) -> dict[str, Backend]:
    """What sparse convolutions can run on besides the automatic choice: title -> backend."""
    if device.type != "cuda":
        return {}
    found: dict[str, Backend] = {"plain CUDA": "cuda"} if ops.compiled("cuda") else {}
    return {**found, "Triton": "triton"} if has("triton") else found


def scan_map(scanned: Tensor) -> ops.KernelMap:
    """Submanifold map 3x3x3 of the scan's voxels."""
    coords, _, _ = ops.dynamic_voxelize(scanned[:, :3].contiguous(), torch.tensor([0, len(scanned)], device=scanned.device), POINT_RANGE, VOXEL_SIZE)
    return ops.submanifold_map(coords, spatial_shape=SHAPE, batch_size=1, kernel=(3, 3, 3))


def convolution_cases(scanned: Tensor) -> Iterator[Case]:
    device, table = scanned.device, scan_map(scanned)
    coords, others = table.coords, backends(scanned.device)
    if "Triton" in others:
        yield Case("implicit GEMM plan 3x3x3", partial(make_plan, table.forward), traffic=3 * 27 * 4 * len(coords))
        yield Case("implicit GEMM pairs 3x3x3", partial(list_pairs, table.forward), traffic=2 * 27 * 4 * len(coords) + 8 * table.pairs())
    for title, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        for width in (16, 32, 64, 128):
            feats = torch.randn(len(coords), width, device=device, dtype=dtype, requires_grad=True)
            weight = torch.randn(width, 3, 3, 3, width, device=device, dtype=dtype, requires_grad=True)
            grad = torch.randn(len(coords), width, device=device, dtype=dtype)

            def forward(feats: Tensor = feats, weight: Tensor = weight) -> Tensor:
                with torch.no_grad():
                    return ops.sparse_conv(feats, weight, None, table)

            def both(feats: Tensor = feats, weight: Tensor = weight, grad: Tensor = grad) -> tuple[Tensor, ...]:
                return torch.autograd.grad(ops.sparse_conv(feats, weight, None, table), [feats, weight], grad)

            peer = spconv_peer.layer_runs(coords, SHAPE, feats, grad)
            macs = float(table.pairs() * width * width)
            for work, run, passes, tensors in (("forward", forward, 1, 2), ("both", both, 3, 5)):
                beside: dict[str, Run] = {name: under(backend, run) for name, backend in others.items()}
                if peer:
                    beside["spconv"] = peer[work == "both"]
                runs = {"ours": run, **beside}
                if title == "tf32":
                    runs = {name: with_tf32(call) for name, call in runs.items()}
                traffic = tensors * len(coords) * width * feats.element_size()
                ours = runs.pop("ours")
                yield Case(f"submanifold {width} -> {width} {title} {work}", ours, runs, traffic=traffic, macs=passes * macs)


def encoder_cases(scanned: Tensor) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        step, peers = encoder_runs(scanned, dtype)
        yield Case(f"SECOND encoder step, {str(dtype)[6:]}", step, peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ops_gpu.json")
    parser.add_argument("--only", choices=["sampling", "neighbours", "boxes", "voxels", "convolution", "encoder"], help="one family of rows")
    parser.add_argument("--tune", nargs="+", choices=["half", "tf32", "ieee"], help="time tile sizes of sparse convolution at these precisions")
    options = parser.parse_args()
    if options.save and (options.only or options.tune):
        parser.error("--save writes the whole table: run it without --only and --tune")
    device = torch.device(options.device)
    points, source = scan()
    scanned = points.to(device)
    machine, (copied, multiplied) = describe(), rates(device)
    print(f"{json.dumps(machine, indent=1)}\nscan: {source}; compiled: {ops.compiled(device.type)} {ops.load_errors().get(device.type, '')}")
    if options.tune:
        for line in tune(scan_map(scanned).forward, options.tune, lambda run: medians({"": run}, min(options.repeats, 20), device)[""]):
            print(line, flush=True)
        return
    print(f"copy {copied / 1e12:.2f} TB/s, bf16 matrix product {2 * multiplied / 1e12:.0f} TFLOP/s")
    print(f"{'microseconds, medians':40s} {'ours':>10s} {'floor':>8s} {'sync':>5s}")
    rows = []
    xyz = scanned[:, :3].contiguous()
    groups = {
        "sampling": sampling_cases(xyz),
        "neighbours": neighbour_cases(xyz),
        "boxes": box_cases(xyz),
        "voxels": voxel_cases(scanned),
        "convolution": convolution_cases(scanned),
        "encoder": encoder_cases(scanned),
    }
    for case in (case for name, group in groups.items() if options.only in (None, name) for case in group):
        found = medians({"ours": case.ours, **case.peers}, options.repeats, device)
        floor = 1e6 * max(case.traffic / copied, case.macs / multiplied)
        row = Row(case.name, found.pop("ours"), floor, waits(case.ours, device), found)
        beside = "  ".join(f"{who} {spent:.0f} ({spent / row.ours:.1f}x)" for who, spent in found.items())
        print(f"{row.name:40s} {row.ours:10.1f} {row.floor:8.1f} {str(row.sync):>5s}  {beside}", flush=True)
        rows.append(row)
    if options.save:
        result = {**machine, "scan": source, "copy bytes/s": copied, "bf16 MAC/s": multiplied, "rows": [asdict(row) for row in rows]}
        (ROOT / "benchmarks" / "results" / "ops_gpu.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
