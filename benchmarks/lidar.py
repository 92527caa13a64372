"""Scans a second through the loader, and where a LiDAR training step spends its time.

    python benchmarks/lidar.py [--root KITTI] [--steps 10] [--only NAME ...] [--json FILE]

Without ``--root`` the data are the synthetic street world at the demo's size, each drive laid out before the clock starts (a run pays
that once a drive). The loader is timed with reading, augmentation and voxelisation, in one and in two workers; the steps with loading in
this process, so that every part shows, once in the first epoch ("first epoch: data") and then in a later one, when what fits into
``data.memory_mb`` is read from there; and once more with one worker: "wait" is the share of a step in which the model stood still.
Parts are exclusive times of the operators named below (torch.profiler, CPU self time); "loss and targets" is the head's loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import describe
from torch.profiler import ProfilerActivity, profile, record_function

from suite3d.engine.files import write_json
from suite3d.engine.loader import StepBatches, step_loader
from suite3d.engine.optim import build_optimizer
from suite3d.engine.order import SampleOrder
from suite3d.pointcloud.encoders.base import LidarEncoder
from suite3d.recipes import RECIPES, find_recipe, resolve

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


STREET = {
    **{name: ["config=demo"] for name in ("mv_jar", "voxel_mae", "occupancy_mae", "bev_contrast", "prc")},
    "second": ["config=demo", "config=second_small"],
    "centerpoint": ["config=demo", "config=demo_finetune"],
}
KITTI = {
    "mv_jar": ["config=kitti", "config=kitti_small"],
    "occupancy_mae": ["config=kitti", "config=kitti_small"],
    "second": ["config=kitti", "config=kitti_small"],
}
"""Recipes and their settings by data."""


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


def warm(source: Any) -> None:
    """Read one scan of every sequence, so that no street drive is laid out while the clock runs; memory stays empty."""
    dataset = source.dataset
    seen: set[str] = set()
    for index in range(len(dataset)):
        if dataset.sequence(index) not in seen:
            seen.add(dataset.sequence(index))
            dataset.frame(index)


def remember(source: Any) -> None:
    """Read every scan once, as the first epoch does."""
    for row in range(len(source.dataset)):
        source.read(row)


def loader_rate(task: Any, *, size: int, workers: int, batches: int) -> float:
    """Scans a second."""
    steps = StepBatches(Voxelised(task.train, task.model.encoder), SampleOrder(len(task.train), 0), micro_batch=size)
    loader = step_loader(steps, first=0, last=batches + 8, workers=workers, pin=False)
    for _ in range(4):
        next(loader)
    start = time.perf_counter()
    for _ in range(batches):
        next(loader)
    return round(batches * size / (time.perf_counter() - start), 1)


def step_parts(task: Any, optim: Any, *, size: int, steps: int) -> dict[str, Any]:
    """Median step time in seconds and the share of each part."""
    model = task.model.train()
    optimizer = build_optimizer(model, optim)
    head = getattr(model, "head", None)
    if head is not None:
        head.loss = _recorded("loss and targets", head.loss)
    batches = StepBatches(task.train, SampleOrder(len(task.train), 0), micro_batch=size)
    times: list[float] = []

    def one(load: Callable[[], Any]) -> None:
        start = time.perf_counter()
        with record_function("data"):
            batch = load()
        model(batch).loss.backward()
        with record_function("optimiser"):
            optimizer.step()
            optimizer.zero_grad()
        times.append(time.perf_counter() - start)

    loads = [0.0]

    def fresh(number: int) -> Any:
        start = time.perf_counter()
        batch = batches[number].batch
        loads.append(time.perf_counter() - start)
        return batch

    for number in range(3):
        one(lambda number=number: batches[number].batch)  # type: ignore[misc]
    times.clear()
    for number in range(3, 3 + steps):
        one(lambda number=number: fresh(number))  # type: ignore[misc]
    first_epoch = round(sum(loads) / sum(times), 3)
    remember(task.train)
    times.clear()
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for number in range(3, 3 + steps):
            one(lambda number=number: batches[number].batch)  # type: ignore[misc]
    row = {"steps/s": round(1 / statistics.median(times), 3), "shares": _shares(trace, sum(times)), "first epoch: data": first_epoch}
    waits = [0.0]

    def waited() -> Any:
        start = time.perf_counter()
        batch = next(loader).batch
        waits.append(time.perf_counter() - start)
        return batch

    loader = step_loader(batches, first=0, last=steps + 3, workers=1, pin=False)
    for _ in range(3):
        one(waited)
    times.clear()
    waits.clear()
    for _ in range(steps):
        one(waited)
    return row | {"steps/s with one worker": round(1 / statistics.median(times), 3), "wait with one worker": round(sum(waits) / sum(times), 3)}


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
    shares["rest of the model (gathers, elementwise, autograd)"] = max(0.0, wall - sum(shares.values()))
    return {name: round(value / wall, 3) for name, value in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    size = 4
    results: dict[str, Any] = {**describe(), "data": arguments.root or "street world (synthetic), configs/demo.yaml, warm", "batch": size}
    print(json.dumps(results, indent=1))
    for name, settings in (KITTI if arguments.root else STREET).items():
        if arguments.only and name not in arguments.only:
            continue
        data = [f"data.root={arguments.root}"] if arguments.root else []
        stage = next(recipe.stage for recipe in RECIPES if recipe.name == name)
        config = resolve(find_recipe(name, stage), [*data, *settings, f"train.batch_size={size}", "train.probe_every=0"])
        config.twin = "none"
        task = config.task()
        warm(task.train)
        row: dict[str, Any] = {
            f"scans/s, {workers} worker{'s' * (workers > 1)}": loader_rate(task, size=size, workers=workers, batches=max(10, arguments.steps))
            for workers in (1, 2)
        }
        results[name] = row | step_parts(task, config.train.optim, size=size, steps=arguments.steps)
        print(name, json.dumps(results[name], indent=1), flush=True)
    if arguments.json:
        write_json(arguments.json, results)


if __name__ == "__main__":
    main()
