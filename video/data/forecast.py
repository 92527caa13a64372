"""``suite3d bench data``: how many clips a second disk and processors give, what a model eats, and what to do about the difference."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from suite3d.config import ConfigError, load_config
from suite3d.engine.loader import StepBatches, first_readable, step_loader
from suite3d.engine.order import SampleOrder
from suite3d.image.views import ViewConfig
from suite3d.source import BadSample
from suite3d.video.data.lists import read_list
from suite3d.video.data.reader import VideoInfo, close_readers, probe_video
from suite3d.video.data.source import ClipSource

_PROBED = 16
_SPARSE_KEY_FRAMES = 32
_LARGE_SIDE = 320
_MOST_REPEATS = 8
_ENDLESS = 2**31


@dataclass(kw_only=True)
class ForecastConfig:
    """What to measure.

    Attributes:
        list_file, layout, split, quarantine: as in ``read_list``.
        frames, stride: of a clip.
        batch: clips of a batch.
        workers: loader processes; 0 = one per core but one for the model.
        repeat: crops of every decoded clip.
        model_rate: samples a second the model eats (its own benchmark says); 0 = unknown.
        seconds: length of the measurement.
        size: side of the crops.
        reader: back-end.
        seed: which clips and windows.
    """

    list_file: Path | None = None
    layout: str = "auto"
    split: str | None = None
    quarantine: Path | None = None
    frames: int = 16
    stride: int = 4
    batch: int = 8
    workers: int = 0
    repeat: int = 1
    model_rate: float = 0.0
    seconds: float = 5.0
    size: int = 224
    reader: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.frames, self.stride, self.batch, self.repeat, self.size) < 1 or self.seconds <= 0 or self.workers < 0 or self.model_rate < 0:
            raise ValueError(f"expected positive frames, stride, batch, repeat, size and seconds, got {self}")


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What was measured and what follows.

    Attributes:
        clips_per_second: decoded clips through the loader with ``workers`` processes.
        workers: loader processes.
        cpu_ms: processor time to decode one clip.
        per_core: clips a second of one core doing nothing else.
        repeat: crops of every decoded clip.
        samples_per_second: ``clips_per_second * repeat``.
        model_rate: what the model eats; 0 = unknown.
        recommended_repeat: smallest number of repeats that feeds the model, up to 8; ``repeat`` where the model is unknown.
        skipped: clips that could not be read.
        advice: sentences for a person.
    """

    clips_per_second: float
    workers: int
    cpu_ms: float
    per_core: float
    repeat: int
    samples_per_second: float
    model_rate: float
    recommended_repeat: int
    skipped: int
    advice: list[str]


def loader_rate(source: ClipSource, *, workers: int, batch: int, seconds: float, seed: int) -> tuple[float, int]:
    """(clips a second through the training loader, clips skipped), measured over ``seconds`` after the loader has filled.

    The consumer takes batches as fast as they come, so this is what the loader can give, including the copy between processes.
    """
    batches = StepBatches(source, SampleOrder(len(source), seed), micro_batch=batch)
    loader = step_loader(batches, first=0, last=_ENDLESS, workers=workers, pin=False)
    skipped = 0
    for _ in range(4 * max(workers, 1) if workers else 1):  # what the workers had ahead when the clock starts
        next(loader)
    started, clips = time.perf_counter(), 0
    while True:
        loaded = next(loader)
        clips += batch - len(loaded.skipped)
        skipped += len(loaded.skipped)
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return clips / elapsed, skipped


def decode_cost(source: ClipSource, *, seconds: float, seed: int) -> float:
    """Processor seconds of this process per decoded clip, over random clips, each file opened anew.

    Raises:
        ValueError: no clip could be read.
    """
    rng = np.random.default_rng(seed)
    source.get(first_readable(source), rng)
    clips = 0
    started, cpu = time.perf_counter(), time.process_time()
    while clips < 4 or time.perf_counter() - started < seconds:
        close_readers()
        try:
            source.get(int(rng.integers(len(source))), rng)
        except BadSample:
            continue
        clips += 1
    return (time.process_time() - cpu) / clips


def forecast(source: ClipSource, config: ForecastConfig) -> Forecast:
    """Measure briefly and conclude."""
    workers = config.workers or max(1, (os.cpu_count() or 2) - 1)
    cpu = decode_cost(source, seconds=min(2.0, config.seconds / 2), seed=config.seed)
    close_readers()
    rate, skipped = loader_rate(source, workers=workers, batch=config.batch, seconds=config.seconds, seed=config.seed + 1)
    needed = math.ceil(config.model_rate / rate) if config.model_rate else config.repeat
    repeat = min(max(needed, 1), _MOST_REPEATS)
    return Forecast(
        clips_per_second=rate,
        workers=workers,
        cpu_ms=1e3 * cpu,
        per_core=1 / cpu,
        repeat=config.repeat,
        samples_per_second=rate * config.repeat,
        model_rate=config.model_rate,
        recommended_repeat=repeat,
        skipped=skipped,
        advice=_advice(source, rate, repeat, workers, config),
    )


def bench_data(target: Path, overrides: Sequence[str]) -> int:
    """The command: prints the forecast. Returns 0."""
    config = load_config(ForecastConfig, overrides=overrides)
    try:
        clips = read_list(target, list_file=config.list_file, layout=config.layout, split=config.split, quarantine=config.quarantine, images="stills")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(clips.describe())
    source = ClipSource(
        clips.items,
        frames=config.frames,
        stride=config.stride,
        augment=ViewConfig(size=config.size),
        repeats=config.repeat,
        reader=config.reader,
    )
    try:
        result = forecast(source, config)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(f"one core: {result.cpu_ms:.1f} ms a clip of {config.frames} frames at stride {config.stride}, {result.per_core:.0f} clips/s")
    print(f"loader with {result.workers} workers: {result.clips_per_second:.0f} clips/s, times repeat {result.repeat} =", end=" ")
    print(f"{result.samples_per_second:.0f} samples/s")
    if result.skipped:
        print(f"{result.skipped} clips could not be read: `suite3d data check` says why")
    for line in result.advice:
        print(line)
    return 0


def _advice(source: ClipSource, rate: float, repeat: int, workers: int, config: ForecastConfig) -> list[str]:
    lines = []
    if config.model_rate:
        share = min(1.0, rate * config.repeat / config.model_rate)
        lines.append(f"the model eats {config.model_rate:.0f} samples/s: repeat={config.repeat} keeps it busy {100 * share:.0f} % of the time")
        if repeat != config.repeat:
            fed = min(1.0, rate * repeat / config.model_rate)
            lines.append(f"choose repeat={repeat}: {100 * fed:.0f} % busy, every decoded clip cropped and masked {repeat} times")
        if rate * repeat < config.model_rate:
            lines.append(
                f"more repeats than {_MOST_REPEATS} make batches too alike; {math.ceil(config.model_rate / rate / repeat * workers)} workers would do"
            )
    infos = _probe_some(source)
    gaps = [info.frames / max(info.key_frames, 1) for info in infos if info.codec]
    sides = [min(info.width, info.height) for info in infos if info.codec]
    if gaps and (np.median(gaps) > _SPARSE_KEY_FRAMES or np.median(sides) > _LARGE_SIDE):
        found = f"one key frame in {np.median(gaps):.0f}, short side {np.median(sides):.0f}"
        lines.append(f"`suite3d data transcode` would make decoding cheaper: half of the files have {found} or more")
    return lines


def _probe_some(source: ClipSource) -> list[VideoInfo]:
    infos = []
    for item in source.items[:: max(1, len(source) // _PROBED)][:_PROBED]:
        try:
            infos.append(probe_video(item.path, reader=source.reader))
        except BadSample:
            continue
    return infos
