"""Scans a second through the loader, and where a LiDAR training step spends its time.

    python benchmarks/lidar.py [--root KITTI] [--steps 10] [--json benchmarks/results/lidar.json]

Without ``--root`` the data are the synthetic street world. The loader is timed with reading, augmentation and voxelisation, in one and
in two workers; the steps with loading in this process, so that every part shows. Parts are exclusive times of the operators named
below (torch.profiler, CPU self time); "loss and targets" is the head's loss or what the method does after its encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from suite3d.engine.files import write_json
from suite3d.engine.loader import StepBatches, step_loader
from suite3d.engine.optim import build_optimizer
from suite3d.engine.order import SampleOrder
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.recipes import find_recipe, resolve

PARTS = {
    "voxelise and maps": ("suite3d::dynamic_voxelize", "suite3d::submanifold_map", "suite3d::strided_map", "suite3d::inverse", "suite3d::scatter"),
    "sparse convolution": ("suite3d::sparse_conv",),
    "dense 2D": ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::_convolution", "aten::slow_conv", "aten::thnn_conv"),
    "matrix products, attention": ("aten::addmm", "aten::mm", "aten::bmm", "aten::_scaled_dot", "aten::_efficient", "aten::_flash"),
    "normalisation and activation": (
        "aten::native_batch_norm",
        "aten::native_layer_norm",
        "aten::threshold",
        "aten::clamp_min",
        "aten::relu",
        "aten::gelu",
    ),
    "other geometry ops": ("suite3d::",),
}


class Voxelised:
    """A source whose samples are also voxelised, as a worker would do it."""

    def __init__(self, source: Any, encoder: LidarEncoder) -> None:
        self.source, self.encoder = source, encoder

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def collate(self, samples: list[Any], seeds: list[int]) -> Any:
        batch = self.source.collate(samples, seeds)
        for view in (batch.first, batch.second) if hasattr(batch, "first") else (batch,):
            self.encoder.voxelize(view)
        return batch


def loader_rate(config: Any, *, workers: int, batches: int) -> float:
    """Scans a second."""
    task = config.task()
    size = config.train.batch_size
    steps = StepBatches(Voxelised(task.train, task.model.encoder), SampleOrder(len(task.train), 0), micro_batch=size)
    loader = step_loader(steps, first=0, last=batches + 4, workers=workers, pin=False)
    for _ in range(4):
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return batches * size / (time.perf_counter() - start)


def step_parts(config: Any, *, steps: int) -> dict[str, Any]:
    """Median step time in seconds and the share of each part."""
    task = config.task()
    model, optimizer = task.model.train(), None
    optimizer = build_optimizer(model, config.train.optim)
    head = getattr(model, "head", None)
    if head is not None:
        head.loss = _recorded("loss and targets", head.loss)
    batches = StepBatches(task.train, SampleOrder(len(task.train), 0), micro_batch=config.train.batch_size)
    times = []

    def one(number: int) -> None:
        start = time.perf_counter()
        with record_function("data"):
            batch = batches[number].batch
        model(batch).loss.backward()
        with record_function("optimiser"):
            optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - start)

    for number in range(3):
        one(number)
    times.clear()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for number in range(3, 3 + steps):
            one(number)
    return {"step seconds": statistics.median(times), "shares": _shares(trace, sum(times))}


def _recorded(name: str, function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with record_function(name):
            return function(*arguments, **keywords)

    return call


def _shares(trace: Any, wall: float) -> dict[str, float]:
    events = trace.key_averages()
    shares = dict.fromkeys((*PARTS, "data", "optimiser", "loss and targets (with its ops)"), 0.0)
    for event in events:
        if event.key in ("data", "optimiser", "loss and targets"):
            name = "loss and targets (with its ops)" if event.key == "loss and targets" else event.key
            shares[name] += event.cpu_time_total / 1e6
            continue
        for part, prefixes in PARTS.items():
            if event.key.startswith(prefixes) or (part == "sparse convolution" and "suite3d_sparse_conv" in event.key):
                shares[part] += event.self_cpu_time_total / 1e6
                break
    shares["rest (gathers, elementwise, Python)"] = max(0.0, wall - sum(shares.values()))
    return {name: round(value / wall, 3) for name, value in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = [f"data.root={arguments.root}", "config=kitti"] if arguments.root else ["config=demo"]
    runs = {"mv_jar": "pretrain", "occupancy_mae": "pretrain", "bev_contrast": "pretrain", "second" if arguments.root else "centerpoint": "finetune"}
    if arguments.root:
        runs.pop("bev_contrast")
    results: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "data": arguments.root or "street world (synthetic), configs/demo.yaml",
    }
    print(results)
    for name, stage in runs.items():
        extra = [] if arguments.root or stage == "pretrain" else ["config=demo_finetune"]
        config = resolve(find_recipe(name, stage), [*data, *extra, "train.batch_size=4", "train.probe_every=0"])
        row: dict[str, Any] = {f"scans/s, {workers} workers": loader_rate(config, workers=workers, batches=10) for workers in (1, 2)}
        row |= step_parts(config, steps=arguments.steps)
        results[name] = row
        print(name, json.dumps(row, indent=1), flush=True)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
