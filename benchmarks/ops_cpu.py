"""CPU ops on a 120,000-point scan: ours, the torch reference, and what else is importable. ``python benchmarks/ops_cpu.py [--threads 2]``.

Medians of wall time, ours and the peer's in turns, and the median of their ratios; one table, and ``benchmarks/results/ops_cpu.json`` with
``--save``. The scan is that of
``../shared/prototypes/gen.py`` where it is found, else a plainer one made here (the table says which).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import minkowski_peer  # noqa: E402
import spconv_peer  # noqa: E402
from interleaved import Step, measure, times_faster  # noqa: E402
from machine import describe  # noqa: E402

import suite3d.ops as ops  # noqa: E402
from suite3d.pointcloud.encoders.base import VoxelGrid  # noqa: E402
from suite3d.pointcloud.encoders.voxel_backbone import VoxelBackBone8x  # noqa: E402

SPCONV, MINKOWSKI = "spconv", "MinkowskiEngine"
POINT_RANGE, VOXEL_SIZE, SHAPE = (-80.0, -80.0, -3.0, 80.0, 80.0, 3.4), (0.05, 0.05, 0.1), (64, 3200, 3200)


@dataclass(frozen=True)
class Row:
    """Medians in milliseconds, and how many times ours the peer takes (median over the rounds); NaN where there is nothing to compare with."""

    name: str
    ours: float
    reference: float
    peer: float
    ratio: float
    peer_name: str


def scan() -> tuple[Tensor, str]:
    """``(120000, 4)`` xyz and intensity, and where it comes from."""
    path = ROOT.parent / "shared" / "prototypes" / "gen.py"
    if path.is_file():
        spec = importlib.util.spec_from_file_location("gen", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return torch.from_numpy(module.lidar_scan(120000)), str(path)
    return yard(120000), "a yard made by this script"


def yard(count: int, *, seed: int = 0) -> Tensor:
    """``(count, 4)`` xyz and intensity: one turn of a scanner, the more beams and steps the more points are asked for.

    64 beams and 1,875 steps give 120,000 points; other counts keep that ratio.
    """
    beams = max(1, round(64 * math.sqrt(count / 120000)))
    steps = math.ceil(count / beams)
    rng = np.random.default_rng(seed)
    turns, heights = np.linspace(-np.pi, np.pi, steps, endpoint=False), np.deg2rad(np.linspace(-24.8, 2.0, beams))
    azimuth, elevation = np.meshgrid(turns, heights, indexing="ij")
    wall = 20 + 15 * np.abs(np.sin(3 * azimuth))  # a yard with six bays, on flat ground 1.73 m below the sensor
    distance = np.minimum(wall / np.cos(elevation), np.where(elevation < 0, -1.73 / np.minimum(np.sin(elevation), -1e-9), np.inf))
    distance = distance + rng.normal(0, 0.02, distance.shape)
    ray = np.stack([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)], axis=-1)
    points = np.concatenate([ray * distance[..., None], rng.random((*distance.shape, 1))], axis=-1).reshape(-1, 4)
    return torch.from_numpy(points[:count].astype(np.float32))


def median_ms(run: Callable[[], object], repeats: int) -> float:
    """Median wall time after one warm-up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def compare(name: str, run: Callable[[], object], *, peer: Callable[[], object] | None = None, peer_name: str = "", repeats: int = 15) -> Row:
    """Time an op compiled and in turns with a peer, then as reference (few repeats).

    Other libraries have threads of their own, which after a call go on spinning for a while: between their calls and ours there is a pause.
    """
    steps: dict[str, Step] = {"ours": lambda _: run()}
    if peer:
        steps["peer"] = lambda _: peer()
    pause = 0.005 if peer_name in (SPCONV, MINKOWSKI) else 0.0
    times = measure(steps, rounds=repeats, device=torch.device("cpu"), pause=pause)
    with ops.use_reference():
        reference = median_ms(run, 3)
    wall = {who: 1e3 * statistics.median(wall for wall, _ in pairs) for who, pairs in times.items()}
    ratio = times_faster(times["peer"], times["ours"]) if peer else math.nan
    row = Row(name, wall["ours"], reference, wall.get("peer", math.nan), ratio, peer_name)
    beside = f"{row.peer:9.2f} {ratio:6.2f}x  {peer_name}" if peer else ""
    print(f"{name:38s} {row.ours:9.2f} {reference:10.2f} {reference / row.ours:6.1f}x {beside}", flush=True)
    return row


def voxel_rows(points: Tensor) -> list[Row]:
    xyz, feats, offsets = points[:, :3].contiguous(), points[:, 3:].contiguous(), torch.tensor([0, len(points)])

    def keys() -> Tensor:
        cell = ((xyz - torch.tensor(POINT_RANGE[:3])) / torch.tensor(VOXEL_SIZE)).floor().long()
        return (cell[:, 2] * SHAPE[1] + cell[:, 1]) * SHAPE[2] + cell[:, 0]

    def unique(key: Tensor) -> object:
        return torch.unique(key, return_inverse=True, return_counts=True)

    def hard() -> object:
        return ops.hard_voxelize(xyz, feats, offsets, POINT_RANGE, VOXEL_SIZE, max_points=5, max_voxels=150000)

    ready = keys()
    spconv = spconv_peer.voxel_run(points, POINT_RANGE, VOXEL_SIZE)
    coords, row, order = ops.dynamic_voxelize(xyz, offsets, POINT_RANGE, VOXEL_SIZE)
    values = points[order]
    wide = torch.randn(len(order), 64, generator=torch.Generator().manual_seed(0))
    added = torch.zeros(len(coords), 64)
    return [
        compare(
            "dynamic_voxelize",
            lambda: ops.dynamic_voxelize(xyz, offsets, POINT_RANGE, VOXEL_SIZE),
            peer=lambda: unique(ready),
            peer_name="torch.unique of ready keys",
            repeats=101,
        ),
        compare("hard_voxelize 5 points", hard, peer=lambda: unique(ready), peer_name="torch.unique of ready keys", repeats=101),
        compare("hard_voxelize 5 points", hard, peer=lambda: unique(keys()), peer_name="keys and torch.unique"),
        *([compare("hard_voxelize 5 points", hard, peer=spconv, peer_name=SPCONV)] if spconv else []),
        compare("scatter_mean 4 channels", lambda: ops.scatter_mean(values, row, len(coords))),
        compare(
            "scatter_sum 64 channels",
            lambda: ops.scatter_sum(wide, row, len(coords)),
            peer=lambda: added.index_add(0, row, wide),
            peer_name="index_add",
        ),
        compare("scatter_max 64 channels", lambda: ops.scatter_max(wide, row, len(coords))),
    ]


def convolution_rows(points: Tensor, channels: list[int]) -> list[Row]:
    coords, _, _ = ops.dynamic_voxelize(points[:, :3].contiguous(), torch.tensor([0, len(points)]), POINT_RANGE, VOXEL_SIZE)
    grid: dict[str, Any] = {"spatial_shape": SHAPE, "batch_size": 1, "kernel": (3, 3, 3)}
    rows = [
        compare("submanifold_map 3x3x3", lambda: ops.submanifold_map(coords, **grid), peer=spconv_peer.map_run(coords, SHAPE), peer_name=SPCONV),
        compare("strided_map 3x3x3 stride 2", lambda: ops.strided_map(coords, stride=(2, 2, 2), padding=(1, 1, 1), **grid)),
    ]
    table = ops.submanifold_map(coords, **grid)
    generator = torch.Generator().manual_seed(0)
    for width in channels:
        feats = torch.randn(len(coords), width, generator=generator, requires_grad=True)
        weight = torch.randn(width, 3, 3, 3, width, generator=generator, requires_grad=True)
        grad = torch.randn(len(coords), width, generator=generator)

        def forward(feats: Tensor = feats, weight: Tensor = weight) -> Tensor:
            with torch.no_grad():
                return ops.sparse_conv(feats, weight, None, table)

        def both(feats: Tensor = feats, weight: Tensor = weight, grad: Tensor = grad) -> tuple[Tensor, ...]:
            return torch.autograd.grad(ops.sparse_conv(feats, weight, None, table), [feats, weight], grad)

        theirs = spconv_peer.layer_runs(coords, SHAPE, feats, grad) or (None, None)
        rows += [
            compare(f"submanifold {width} -> {width} forward", forward, peer=theirs[0], peer_name=SPCONV, repeats=15),
            compare(f"submanifold {width} -> {width} both", both, peer=theirs[1], peer_name=SPCONV, repeats=11),
        ]
        engine = minkowski_peer.layer_runs(coords, feats, grad)
        if engine:
            rows += [
                compare(f"submanifold {width} -> {width} forward", forward, peer=engine[0], peer_name=MINKOWSKI, repeats=9),
                compare(f"submanifold {width} -> {width} both", both, peer=engine[1], peer_name=MINKOWSKI, repeats=7),
            ]
    return rows


def encoder_runs(points: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
    """Forward and backward of SECOND's 3D encoder on ready voxels, maps included: ours, and those of the peers that import."""
    offsets = torch.tensor([0, len(points)], device=points.device)
    coords, row, order = ops.dynamic_voxelize(points[:, :3].contiguous(), offsets, POINT_RANGE, VOXEL_SIZE)
    means = ops.scatter_mean(points[order], row, len(coords))
    encoder = VoxelBackBone8x(VoxelGrid(point_range=POINT_RANGE, voxel_size=VOXEL_SIZE)).to(points.device).train()

    def step() -> None:
        with torch.autocast(points.device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            levels = encoder.backbone(ops.SparseTensor(coords=coords, feats=means, spatial_shape=SHAPE, batch_size=1)).levels
            torch.stack([level.feats.float().square().mean() for level in levels]).sum().backward()
        encoder.zero_grad(set_to_none=True)

    shape = (SHAPE[0] + 1, *SHAPE[1:])
    peers = {SPCONV: spconv_peer.encoder_run(coords, shape, means, dtype), MINKOWSKI: minkowski_peer.encoder_run(coords, means)}
    return step, {name: run for name, run in peers.items() if run}


def encoder_rows(points: Tensor) -> list[Row]:
    step, peers = encoder_runs(points)
    name = "SECOND encoder, both, with maps"
    return [compare(name, step, peer=run, peer_name=who, repeats=5) for who, run in peers.items()] or [compare(name, step, repeats=5)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels", type=int, nargs="*", default=[16, 32, 64, 128])
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ops_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    points, source = scan()
    machine = describe()
    print(f"{json.dumps(machine, indent=1)}\nscan: {source}; compiled: {ops.compiled('cpu')} {ops.load_errors().get('cpu', '')}")
    print(f"{'ms, medians':38s} {'ours':>9s} {'reference':>10s} {'ratio':>7s} {'peer':>9s} {'ratio':>7s}")
    rows = [*voxel_rows(points), *convolution_rows(points, options.channels), *encoder_rows(points)]
    if options.save:
        target = Path(__file__).parent / "results" / "ops_cpu.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps({**machine, "scan": source, "rows": [asdict(row) for row in rows]}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
