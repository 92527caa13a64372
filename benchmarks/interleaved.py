"""Steps of several implementations timed in turns in one process, so that other load on the machine meets all of them."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from machine import describe

from suite3d.engine.files import write_json

Step = Callable[[int], object]
Times = dict[str, list[tuple[float, float]]]


def measure(steps: dict[str, Step], *, rounds: int, device: torch.device, pause: float = 0.0) -> Times:
    """(wall, processor) seconds of each step in each round, the order turned round by round; two rounds of warm-up are left out.

    ``pause``: seconds of rest before each step, where threads of another library would go on spinning for a while.
    """
    names = list(steps)
    times: Times = {name: [] for name in names}
    for number in range(rounds + 2):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            time.sleep(pause)
            wall, processor = time.perf_counter(), time.process_time()
            steps[name](number)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 2:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def times_faster(slow: list[tuple[float, float]], fast: list[tuple[float, float]], clock: int = 0) -> float:
    """How many times as long as ``fast`` takes ``slow`` takes, by one clock (0 = wall, 1 = processor): median over the rounds."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(slow, fast, strict=True))


def summary(times: Times, clock: int, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Medians of one clock (0 = wall, 1 = processor) and how many times faster the second of each pair is, median over rounds."""
    return {
        "seconds per step": {name: round(statistics.median(pair[clock] for pair in values), 4) for name, values in times.items()},
        "times faster": {f"{slow} / {fast}": round(times_faster(times[slow], times[fast], clock), 3) for slow, fast in pairs},
    }


def report(settings: dict[str, Any], times: Times, pairs: Sequence[tuple[str, str]], arguments: argparse.Namespace) -> None:
    """Print and write where it ran, the ``settings``, and the summary of the wall clock and, on a CPU, of the processor time.

    ``arguments`` has ``batch``, ``rounds``, ``bf16``, ``compile``, ``device`` and ``json``.
    """
    result: dict[str, Any] = {**describe(), **settings, "batch": arguments.batch, "rounds": arguments.rounds}
    result |= {"precision": "bf16" if arguments.bf16 else "fp32", "compile": arguments.compile}
    result["wall clock"] = summary(times, 0, pairs)
    if torch.device(arguments.device).type == "cpu":
        result["processor time"] = summary(times, 1, pairs)
    for name, value in result.items():
        print(f"{name}: {value}")
    write_json(arguments.json, result)
