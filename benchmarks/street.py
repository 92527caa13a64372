"""Sweeps a second of the street world: one process, two processes, two threads; pictures and layouts beside them.

    python benchmarks/street.py [--seconds 5] [--json FILE]

The target is 20 sweeps a second of 64 beams x 1024 azimuths on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from machine import describe

from suite3d.pointcloud.data.street import StreetConfig, StreetWorld

FULL = StreetConfig(train_sequences=4)
SMALL = StreetConfig(train_sequences=4, beams=32, azimuths=512)


def _rate(config: StreetConfig, seconds: float, first: int, step: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Frames a second of one process, layouts and compilation warmed up."""
    world = StreetWorld(config)
    for index in range(0, len(world), config.frames):
        world.frame(index)
    count, start = 0, clock()
    while clock() - start < seconds:
        world.frame((first + step * count) % len(world))
        count += 1
    return count / (clock() - start)


def _processes(config: StreetConfig, seconds: float, count: int) -> float:
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(_rate, [config] * count, [seconds] * count, range(count), [count] * count))


def _median_seconds(work: list[object]) -> float:
    times = []
    for job in work:
        assert callable(job)
        start = time.perf_counter()
        job()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = describe()
    start = time.perf_counter()
    StreetWorld(FULL).frame(0)
    rows = {"first frame, import excluded (s)": time.perf_counter() - start}
    for name, config in (("64 x 1024", FULL), ("32 x 512", SMALL)):
        rows[f"{name}, 1 process (sweeps/s)"] = _rate(config, options.seconds, 0, 1)
        rows[f"{name}, sweeps a second of core time"] = _rate(config, options.seconds, 0, 1, time.process_time)
        rows[f"{name}, 2 processes (sweeps/s)"] = _processes(config, options.seconds, 2)
        threaded = StreetConfig(**{**vars(config), "threads": 2})
        rows[f"{name}, 1 process, 2 threads (sweeps/s)"] = _rate(threaded, options.seconds, 0, 1)
    world = StreetWorld(FULL)
    rows["layout of a drive of 20 frames (s)"] = _median_seconds([lambda k=k: world.drive(k) for k in range(4)])
    world.image(0)
    rows["picture of 1242 x 375 (s)"] = _median_seconds([lambda k=k: world.image(20 * k) for k in range(4)])
    print(json.dumps(machine, indent=1))
    for name, value in rows.items():
        print(f"{name:45s} {value:8.3f}")
    if options.json:
        options.json.write_text(json.dumps({**machine, **rows}, indent=1))


if __name__ == "__main__":
    main()
