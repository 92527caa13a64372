"""Video data: what the stored format costs, whether the forecast comes true, and whether memory stays flat.

    PYTHONPATH=. python benchmarks/video_data.py [quick=true] [seconds=6] [opens=10000] [out=benchmarks/results/video_data.json]

1. 256p files with one key frame in 250 pictures (x264's default, what people have on disk) against the same files after
   ``suite3d data transcode``: processor time of 16 frames at stride 4 from a random start, each file opened anew, one thread.
   Measured in turns (A, B, A, B, ...), the median of the rounds is reported. Target: 3 times the clips a second per core.
2. ``suite3d bench data``'s forecast against the rate a longer run of the training loader then achieves. Target: within 20 %.
3. Resident memory over 10,000 opens of a small file.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from machine import describe
from numpy.typing import NDArray

from suite3d.image.views import ViewConfig
from suite3d.video.data.decoders.pyav import PyavReader
from suite3d.video.data.forecast import ForecastConfig, forecast, loader_rate
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.reader import close_readers, count_frames, read_frames
from suite3d.video.data.source import ClipSource
from suite3d.video.data.transcode import TranscodeConfig, scaled_size, transcode_file

SHARED = Path(os.environ.get("SUITE3D_DATA", Path(__file__).parents[1].parent / "shared" / "data")) / "video"
REAL = {"Kinetics-like clip (340x256)": "unlabelled/mmaction_demo.mp4", "almost still scene (456x256)": "robustness/nasa_13013.mp4"}
ROUNDS, TRIALS = 5, 3


def moving_texture(frames: int = 300, width: int = 340, height: int = 256) -> Iterator[NDArray[np.uint8]]:
    """A textured plane and discs that drift over it, with sensor noise: as hard to code as a hand-held video."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (12, 16, 3)).astype(np.float64).repeat(64, axis=0).repeat(64, axis=1)
    texture += 40 * np.sin(np.arange(1024)[None, :, None] / 7) * np.cos(np.arange(768)[:, None, None] / 9)
    rows, columns = np.mgrid[:height, :width]
    for number in range(frames):
        top, left = int(200 + 150 * np.sin(number / 40)), int(300 + 250 * np.sin(number / 57))
        picture = texture[top : top + height, left : left + width].copy()
        for disc in range(4):
            y, x = height * (0.5 + 0.4 * np.sin(number / 20 + disc)), width * (0.5 + 0.4 * np.cos(number / 27 + 2 * disc))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < 900] = 60 * disc + 30
        yield np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def pictures(path: Path) -> Iterator[NDArray[np.uint8]]:
    reader = PyavReader(path)
    yield from reader.walk()
    reader.close()


def encode_default(frames: Iterator[NDArray[np.uint8]], path: Path) -> None:
    """x264's defaults (preset medium, crf 23, key frames up to 250 apart) at a short side of 256."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(30))
        stream.codec_context.thread_count = 1
        for number, picture in enumerate(frames):
            width, height = scaled_size(picture.shape[1], picture.shape[0], 256)
            if not number:
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            out.mux(stream.encode(frame.reformat(width, height, "yuv420p", interpolation="AREA", threads=1)))
        out.mux(stream.encode(None))


def clip_cost(path: Path, clips: int, seed: int, reader: str = "auto") -> float:
    """Processor milliseconds of this process per clip."""
    rng = np.random.default_rng(seed)
    length = count_frames(path)
    begun = time.process_time()
    for _ in range(clips):
        close_readers()
        read_frames(path, rng.integers(length - 61) + 4 * np.arange(16), reader=reader)
    return 1e3 * (time.process_time() - begun) / clips


def stored_formats(folder: Path, clips: int) -> list[dict[str, Any]]:
    rows = []
    sources = {"moving texture and noise (340x256)": None, **{name: SHARED / path for name, path in REAL.items() if (SHARED / path).is_file()}}
    for place, (name, source) in enumerate(sources.items()):
        sparse, dense = folder / f"{place}_gop250.mp4", folder / "transcoded" / f"{place}.mp4"
        encode_default(moving_texture() if source is None else pictures(source), sparse)
        done = transcode_file(sparse, dense, TranscodeConfig())
        assert done.state == "written", done.reason
        costs: dict[str, list[float]] = {"gop250": [], "transcoded": [], "gop250 decord": []}
        for turn in range(ROUNDS):
            costs["gop250"].append(clip_cost(sparse, clips, turn))
            costs["transcoded"].append(clip_cost(dense, clips, turn))
            costs["gop250 decord"].append(clip_cost(sparse, clips, turn, "decord"))
        medians = {key: statistics.median(values) for key, values in costs.items()}
        ratios = [before / after for before, after in zip(costs["gop250"], costs["transcoded"])]
        rows.append(
            {
                "video": name,
                "gop250_ms": medians["gop250"],
                "transcoded_ms": medians["transcoded"],
                "gop250_clips_per_second_per_core": 1e3 / medians["gop250"],
                "transcoded_clips_per_second_per_core": 1e3 / medians["transcoded"],
                "times": statistics.median(ratios),
                "times_range": [min(ratios), max(ratios)],
                "decord_gop250_ms": medians["gop250 decord"],
                "disk": dense.stat().st_size / sparse.stat().st_size,
            }
        )
    return rows


def forecast_check(folder: Path, seconds: float, workers: int) -> dict[str, Any]:
    """Forecast, then a longer run of the loader on other clips; three times, as other work on a shared machine comes and goes."""
    items = [VideoItem(path, None) for path in sorted((folder / "transcoded").glob("*.mp4"))]
    source = ClipSource(items, frames=16, stride=4, augment=ViewConfig())
    config = ForecastConfig(workers=workers, seconds=seconds)
    said, achieved = [], []
    for trial in range(TRIALS):
        said.append(forecast(source, config).clips_per_second)
        achieved.append(loader_rate(source, workers=workers, batch=config.batch, seconds=2.5 * seconds, seed=7 + trial)[0])
    errors = [before / after - 1 for before, after in zip(said, achieved)]
    return {"workers": workers, "forecast": said, "achieved": achieved, "errors": errors, "median_error": statistics.median(map(abs, errors))}


def memory(path: Path, opens: int) -> dict[str, float]:
    """Resident MB at the start (after 500 opens) and at the end."""

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def read(count: int) -> None:
        for number in range(count):
            close_readers()
            read_frames(path, [number % 8])

    read(500)
    before, begun = resident(), time.perf_counter()
    read(opens)
    return {"opens": opens, "before_mb": before, "after_mb": resident(), "ms_per_open": 1e3 * (time.perf_counter() - begun) / opens}


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    quick = options.get("quick") == "true"
    seconds, opens = float(options.get("seconds", 2 if quick else 6)), int(options.get("opens", 1000 if quick else 10_000))
    result: dict[str, Any] = {"machine": describe()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = stored_formats(folder, 4 if quick else 16)
        result["stored_formats"] = rows
        print(f"{'processor ms a clip (16 frames, stride 4)':42} {'GOP 250':>8} {'transcoded':>11} {'times':>6} {'disk':>6} {'decord, GOP 250':>16}")
        for row in rows:
            cells = [row[key] for key in ("gop250_ms", "transcoded_ms", "times", "disk", "decord_gop250_ms")]
            print("{:42} {:8.1f} {:11.1f} {:6.2f} {:6.2f} {:16.1f}".format(row["video"], *cells))
        result["forecast"] = checks = [forecast_check(folder, seconds, workers) for workers in (1, 2)]
        for check in checks:
            for before, after, error in zip(check["forecast"], check["achieved"], check["errors"]):
                print(f"forecast {before:.1f} clips/s with {check['workers']} workers, achieved {after:.1f}: {100 * error:+.0f} %")
            print(f"median error {100 * check['median_error']:.0f} %")
        small = folder / "small.mp4"
        encode_default((np.full((32, 48, 3), 20 * number, dtype=np.uint8) for number in range(8)), small)
        result["memory"] = held = memory(small, opens)
        print("{opens} opens: {before_mb:.1f} MB -> {after_mb:.1f} MB resident, {ms_per_open:.2f} ms an open".format(**held))
    out = Path(options.get("out", Path(__file__).parent / "results" / "video_data.json"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
