"""How the cost of each op grows: time and peak memory at 10k, 30k, 100k, 300k and 1M points.

``OMP_NUM_THREADS=1 python benchmarks/ops_growth.py [--threads 1] [--repeats 3] [--only NAME] [--save]`` prints a table; ``--save`` writes
``benchmarks/results/ops_growth.json`` and one picture a family into ``benchmarks/plots/``.

Input is one turn of a scanner in a yard (``ops_cpu.yard``), with more beams and steps the more points are wanted; voxels shrink with the
gap between points (10 cm at 100k), so that their number grows with that of the points. Every figure comes from a process of its own.
Peak memory is what the resident set grows by during one call, above the inputs, results included (Linux: ``/proc/self/clear_refs`` resets
the high-water mark). Time is the median wall time and the least CPU time of the repeats after that call. Beside them stands the exponent by
which the CPU time grows from 100k points on: 1 is linear, 2 quadratic.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from machine import describe  # noqa: E402
from ops_cpu import yard  # noqa: E402
from ops_cpu_geometry import random_boxes, subset  # noqa: E402
from plot import save_panels  # noqa: E402

import suite3d.ops as ops  # noqa: E402

COUNTS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RANGE = (-40.0, -40.0, -4.0, 40.0, 40.0, 12.0)
Run = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """One op at one size: milliseconds and megabytes (10^6 bytes)."""

    family: str
    op: str
    points: int
    wall: float
    cpu: float
    memory: float


def points_of(count: int, seed: int = 0) -> Tensor:
    return yard(count, seed=seed)[:, :3].contiguous()


def one(count: int) -> Tensor:
    """Offsets of a single cloud."""
    return torch.tensor([0, count])


def voxels_of(count: int) -> tuple[Tensor, Tensor, Tensor, tuple[int, int, int]]:
    """Voxels, voxel of each point, order of the points, and (z, y, x) cells."""
    size, (z, y, x) = grid_of(count)
    return *ops.dynamic_voxelize(points_of(count), one(count), RANGE, size), (z, y, x)


def grid_of(count: int) -> tuple[tuple[float, float, float], tuple[int, int, int]]:
    """Voxel size (x, y, z) in metres and cells along (z, y, x)."""
    finer = math.sqrt(count / 100_000)
    across, up = round(800 * finer), round(80 * finer)
    return (80 / across, 80 / across, 16 / up), (up, across, across)


def furthest(share: int) -> Callable[[int], Run]:
    def make(count: int) -> Run:
        points = points_of(count)
        return lambda: ops.furthest_point_sample(points, one(count), count // share)

    return make


def knn(count: int) -> Run:
    points = points_of(count)
    return lambda: ops.knn(points, points, 16)


def ball(count: int) -> Run:
    points = points_of(count)
    query = subset(points, count // 8, 1)
    return lambda: ops.ball_query(query, points, 0.4, 32)


def interpolate(count: int) -> Run:
    points, feats = points_of(count), torch.randn(count // 4, 32)
    known = subset(points, count // 4, 1)
    return lambda: ops.three_interpolate(points, known, feats)


def chamfer(*, backward: bool) -> Callable[[int], Run]:
    def make(count: int) -> Run:
        a, b = points_of(count).requires_grad_(backward), points_of(count, 1).requires_grad_(backward)

        def run() -> object:
            d2_ab, d2_ba, *_ = ops.chamfer_distance(a, b)
            return torch.autograd.grad(d2_ab.mean() + d2_ba.mean(), (a, b)) if backward else (d2_ab, d2_ba)

        return run

    return make


def in_boxes(count: int) -> Run:
    points, boxes = points_of(count), random_boxes(100, 30.0, 0)
    return lambda: ops.points_in_boxes(points, boxes)


def overlap(count: int) -> Run:
    side = math.isqrt(count)
    a, b = random_boxes(side, 70.0, 0), random_boxes(side, 70.0, 1)
    return lambda: ops.box_iou_bev(a, b)


def suppress(count: int) -> Run:
    """As many boxes a square metre at every count."""
    number = count // 10
    boxes, scores = random_boxes(number, 0.7 * math.sqrt(number), 2), torch.rand(number, generator=torch.Generator().manual_seed(0))
    return lambda: ops.nms_rotated(boxes, scores, 0.1)


def dynamic(count: int) -> Run:
    points, (size, _) = points_of(count), grid_of(count)
    return lambda: ops.dynamic_voxelize(points, one(count), RANGE, size)


def hard(count: int) -> Run:
    points, (size, _) = yard(count), grid_of(count)
    xyz, feats = points[:, :3].contiguous(), points[:, 3:].contiguous()
    return lambda: ops.hard_voxelize(xyz, feats, one(count), RANGE, size, max_points=5, max_voxels=count)


def scatter(reduce: Callable[[Tensor, Tensor, int], Tensor]) -> Callable[[int], Run]:
    def make(count: int) -> Run:
        coords, row, order, _ = voxels_of(count)
        values = torch.randn(len(order), 64, generator=torch.Generator().manual_seed(0))
        return lambda: reduce(values, row, len(coords))

    return make


def submanifold(count: int) -> Run:
    coords, _, _, shape = voxels_of(count)
    return lambda: ops.submanifold_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3))


def strided(count: int) -> Run:
    coords, _, _, shape = voxels_of(count)
    return lambda: ops.strided_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1))


def convolution(width: int, *, backward: bool) -> Callable[[int], Run]:
    def make(count: int) -> Run:
        coords, _, _, shape = voxels_of(count)
        table = ops.submanifold_map(coords, spatial_shape=shape, batch_size=1, kernel=(3, 3, 3))
        generator = torch.Generator().manual_seed(0)
        feats = torch.randn(len(coords), width, generator=generator, requires_grad=backward)
        weight = torch.randn(width, 3, 3, 3, width, generator=generator, requires_grad=backward)

        def run() -> object:
            out = ops.sparse_conv(feats, weight, None, table)
            return torch.autograd.grad(out.sum(), (feats, weight)) if backward else out

        return run

    return make


# family -> op -> what makes its inputs for a count and returns the call
FAMILIES: dict[str, dict[str, Callable[[int], Run]]] = {
    "sampling": {"furthest points, 1 of 16": furthest(16), "furthest points, 1 of 4": furthest(4)},
    "neighbours": {"knn 16, itself": knn, "ball query 0.4 m, 32, from 1 of 8": ball, "3-NN interpolation from 1 of 4, 32 channels": interpolate},
    "chamfer": {"chamfer, two scans": chamfer(backward=False), "chamfer, with backward": chamfer(backward=True)},
    "boxes": {"points in 100 boxes": in_boxes, "IoU, as many pairs as points": overlap, "NMS, a tenth as many boxes": suppress},
    "voxels": {
        "dynamic_voxelize": dynamic,
        "hard_voxelize, 5 points": hard,
        "scatter_mean, 64 channels": scatter(ops.scatter_mean),
        "scatter_max, 64 channels": scatter(ops.scatter_max),
    },
    "convolution": {
        "submanifold map": submanifold,
        "strided map": strided,
        "submanifold 16 to 16": convolution(16, backward=False),
        "submanifold 64 to 64": convolution(64, backward=False),
        "submanifold 64 to 64, with backward": convolution(64, backward=True),
    },
}


def resident(field: str) -> float:
    """Megabytes: ``VmRSS`` now, ``VmHWM`` at the peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field)) * 1024 / 1e6


def measure(family: str, op: str, count: int, repeats: int, threads: int) -> Figure:
    """Runs in a process of its own."""
    torch.set_num_threads(threads)
    FAMILIES[family][op](1000)()  # code and tables that are read once belong to no size
    run = FAMILIES[family][op](count)
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what making the inputs left free would hide growth
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident("VmRSS")
    result = run()
    memory = resident("VmHWM") - before
    del result
    wall, cpu = [], []
    for _ in range(repeats):
        start, spent = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
    return Figure(family, op, count, 1e3 * statistics.median(wall), 1e3 * min(cpu), memory)


def exponent(figures: list[Figure]) -> float:
    """Of the growth of CPU time from 100k points (or the first size) to the last."""
    known = [f for f in figures if f.points >= 100_000]
    first, last = (known if len(known) > 1 else figures)[0], figures[-1]
    return math.log(last.cpu / first.cpu) / math.log(last.points / first.points) if last.points > first.points else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="*", default=list(COUNTS))
    parser.add_argument("--only", default="", help="part of the name of the ops to run")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ops_growth.json and benchmarks/plots/")
    options = parser.parse_args()
    machine = {**describe(), "threads": options.threads}
    print(f"{json.dumps(machine, indent=1)}\ncompiled: {ops.compiled('cpu')} {ops.load_errors().get('cpu', '')}")
    print(f"{'wall ms, cpu ms, MB':44s} " + " ".join(f"{count:>24,d}" for count in options.counts) + "   exponent")
    figures: list[Figure] = []
    for family, members in FAMILIES.items():
        for op in (name for name in members if options.only in name):
            rows = []
            for count in options.counts:
                with multiprocessing.get_context("fork").Pool(1) as pool:  # this process has started no threads yet
                    rows.append(pool.apply(measure, (family, op, count, options.repeats, options.threads)))
            figures += rows
            cells = " ".join(f"{row.wall:8.1f} {row.cpu:8.1f} {row.memory:6.1f}" for row in rows)
            print(f"{op:44s} {cells}   {exponent(rows):8.2f}", flush=True)
    if options.save:
        save(machine, figures)


def save(machine: dict[str, object], figures: list[Figure]) -> None:
    target = Path(__file__).parent / "results" / "ops_growth.json"
    target.write_text(json.dumps({**machine, "rows": [asdict(figure) for figure in figures]}, indent=2) + "\n", encoding="utf-8")
    for family in dict.fromkeys(figure.family for figure in figures):
        panels = []
        for title, value in ((f"{family}: CPU time, ms", "cpu"), (f"{family}: peak memory, MB", "memory")):
            lines: dict[str, list[tuple[float, float]]] = {}
            for figure in (f for f in figures if f.family == family):
                lines.setdefault(figure.op, []).append((figure.points, getattr(figure, value)))
            panels.append((title, "points", lines))
        save_panels(Path(__file__).parent / "plots" / f"ops_{family}.png", panels)


if __name__ == "__main__":
    main()
