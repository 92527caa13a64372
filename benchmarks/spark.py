"""SparK's encoder on the visible part of pictures: masked dense convolution against the project's sparse convolution, interleaved in one process.

    python benchmarks/spark.py [--depth 50] [--width 64] [--side 224] [--batch 4] [--rounds 7] [--ratio 0.6] [--device cpu]

Rows: ``plain`` is the same ResNet on whole pictures, which is what a masked dense network costs at least; ``masked`` sets hidden places to zero
after every layer and norms over visible ones; ``sparse`` visits visible places only. Each row is forward and backward through all four levels;
``step masked`` and ``step sparse`` are whole SparK steps with decoder and AdamW. Figures are medians, ratios medians over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe

from suite3d.engine.files import write_json
from suite3d.image.appearance import AppearanceConfig
from suite3d.image.backbones.resnet import ResNet
from suite3d.image.backbones.sparse_resnet import sparse_levels
from suite3d.image.backbones.visible import VisibleCells, masked_levels
from suite3d.image.data.batch import ImageBatch, ViewDraw
from suite3d.image.views import IMAGENET_MEAN, IMAGENET_STD
from suite3d.masking import generators_of, hidden_count, tube_mask
from suite3d.methods.spark import SparK, SparKConfig

PAIRS = (("masked", "sparse"), ("plain", "sparse"), ("step masked", "step sparse"))


def encoder_steps(arguments: argparse.Namespace) -> dict[str, Callable[[int], None]]:
    """Forward and backward through the levels of one ResNet, three ways."""
    torch.manual_seed(0)
    encoder = ResNet(arguments.depth, width=arguments.width).to(arguments.device)
    pixels = torch.randn(arguments.batch, 3, arguments.side, arguments.side, device=arguments.device)
    side = arguments.side // encoder.stride
    seen = side**2 - hidden_count(side**2, arguments.ratio)

    def cells(number: int) -> VisibleCells:
        generators = generators_of([number * arguments.batch + i for i in range(arguments.batch)], "mask")
        mask = tube_mask((1, side, side), arguments.ratio, generators, device=arguments.device)
        return VisibleCells(mask.unflatten(1, (side, side)), seen)

    def learn(maps: list[torch.Tensor]) -> None:
        torch.stack([level.square().mean() for level in maps]).sum().backward()
        encoder.zero_grad(set_to_none=True)

    return {
        "plain": lambda number: learn(encoder.levels(pixels)),
        "masked": lambda number: learn(masked_levels(encoder, pixels, cells(number))),
        "sparse": lambda number: learn(sparse_levels(encoder, pixels, cells(number))),
    }


def whole_step(kind: Any, arguments: argparse.Namespace) -> Callable[[int], None]:
    """One optimiser step of SparK at the published decoder width."""
    torch.manual_seed(0)
    encoder = ResNet(arguments.depth, width=arguments.width)
    method = SparK(encoder, SparKConfig(mask_ratio=arguments.ratio, convolution=kind)).to(arguments.device)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4, fused=True)
    count, side = arguments.batch, arguments.side
    pictures = torch.randint(0, 256, (count, 1, side, side, 3), dtype=torch.uint8, device=arguments.device)
    view = ViewDraw(
        picture=0,
        boxes=torch.tensor([0, 0, side, side], device=arguments.device).repeat(count, 1),
        sizes=torch.tensor([side, side], device=arguments.device).repeat(count, 1),
        flips=torch.zeros(count, dtype=torch.bool, device=arguments.device),
        colors=None,
        size=side,
        appearance=AppearanceConfig(),
    )

    def step(number: int) -> None:
        batch = ImageBatch(
            pictures=[pictures],
            views=[view],
            labels=torch.zeros(count, dtype=torch.int64, device=arguments.device),
            names=["noise"] * count,
            seeds=[number * count + i for i in range(count)],
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        )
        method(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(steps: dict[str, Callable[[int], None]], *, rounds: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of each step in each round; one round of warm-up is left out."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for number in range(rounds + 1):
        for name, step in steps.items():
            if device != "cpu":
                torch.cuda.synchronize()
            wall, processor = time.perf_counter(), time.process_time()
            step(number)
            if device != "cpu":
                torch.cuda.synchronize()
            if number:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=50)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ratio", type=float, default=0.6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "spark.json")
    arguments = parser.parse_args()
    result: dict[str, Any] = {**describe(), **{name: getattr(arguments, name) for name in ("depth", "width", "side", "batch", "rounds", "ratio")}}
    steps = encoder_steps(arguments) | {f"step {kind}": whole_step(kind, arguments) for kind in ("masked", "sparse")}
    times = measure(steps, rounds=arguments.rounds, device=arguments.device)
    for clock, name in enumerate(("wall clock", "processor time") if arguments.device == "cpu" else ("wall clock",)):
        one = {step: [pair[clock] for pair in values] for step, values in times.items()}
        ratios = {f"{slow} / {fast}": statistics.median(a / b for a, b in zip(one[slow], one[fast], strict=True)) for slow, fast in PAIRS}
        result[name] = {
            "seconds": {step: round(statistics.median(values), 4) for step, values in one.items()},
            "times faster": {pair: round(value, 3) for pair, value in ratios.items()},
        }
    for name, value in result.items():
        print(f"{name}: {value}")
    write_json(arguments.json, result)


if __name__ == "__main__":
    main()
