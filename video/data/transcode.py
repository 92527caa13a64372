"""``suite3d data transcode``: re-encode once so that every later epoch decodes a fraction.

A clip of a file as downloaded costs up to a whole group of 250 pictures to reach; with a key frame every 16 pictures, a short side of 256
and H.264 without deblocking and CABAC ("fastdecode") it costs a quarter, for about a quarter more disk at the same size
(benchmarks/video_data.py).
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from suite3d.config import ConfigError, load_config
from suite3d.engine.files import write_atomically, write_text
from suite3d.image.decode import natural_key
from suite3d.source import BadSample
from suite3d.video.data.check import show_progress
from suite3d.video.data.check_workers import in_processes
from suite3d.video.data.decoders.pyav import PyavReader
from suite3d.video.data.lists_files import is_video
from suite3d.video.data.reader import close_readers, count_frames, probe_video, read_frames

_TIME_BASE = Fraction(1, 90_000)
# Three of four pictures are B-frames that nothing refers to, so a reader that wants every fourth frame leaves most of them undecoded.
_DROPPABLE = "force-cfr=0:b-adapt=0:b-pyramid=none"


@dataclass(kw_only=True)
class TranscodeConfig:
    """How to encode.

    Attributes:
        short_side: pixels of the shorter side; a smaller video keeps its size. Sides are rounded to even numbers.
        gop: most pictures from one key frame to the next.
        crf: x264's constant rate factor.
        preset: x264's speed preset.
        tune: x264's tuning; "fastdecode" leaves out what is slow to decode.
        workers: processes; 0 = one per core.
    """

    short_side: int = 256
    gop: int = 16
    crf: int = 23
    preset: str = "veryfast"
    tune: str = "fastdecode"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.short_side < 16 or self.gop < 1 or not 0 <= self.crf <= 51 or self.workers < 0:
            raise ValueError(f"expected short_side >= 16, gop >= 1, crf 0..51, workers >= 0, got {self}")


@dataclass(frozen=True)
class Transcoded:
    """What became of one file: ``state`` is "written", "kept" (done before) or "failed"."""

    source: Path
    target: Path
    state: str
    frames: int = 0
    reason: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


def transcode_file(source: Path, target: Path, config: TranscodeConfig) -> Transcoded:
    """Re-encode one video, upright, with its own frame times and without sound; verify that all frames can be counted in the result.

    A target from the same source (size, time and settings, kept in a line beside it) is left alone.
    """
    note = target.with_name(f".{target.name}.json")
    try:
        signature = _signature(source, config)
        if target.is_file() and note.is_file() and _read_note(note) == {**signature, "bytes": target.stat().st_size}:
            return Transcoded(source, target, "kept", bytes_in=source.stat().st_size, bytes_out=target.stat().st_size)
        frames = count_frames(source)
        write_atomically(target, functools.partial(_encode_checked, source, frames=frames, config=config))
        write_text(note, json.dumps({**signature, "bytes": target.stat().st_size}) + "\n")
    except BadSample as bad:
        return Transcoded(source, target, "failed", reason=bad.reason)
    except OSError as error:
        return Transcoded(source, target, "failed", reason=str(error))
    finally:
        close_readers()
    return Transcoded(source, target, "written", frames, bytes_in=source.stat().st_size, bytes_out=target.stat().st_size)


def transcode(source: Path, out: Path, overrides: Sequence[str]) -> int:
    """The command: every video below ``source`` to the same relative path below ``out``, as ``.mp4``; lists and labels are copied.

    Returns 0, or 1 when a file failed; the failures are printed and written to ``out/failed.jsonl``.
    """
    config = load_config(TranscodeConfig, overrides=overrides)
    if not source.is_dir():
        raise ConfigError(f"{source}: no such folder")
    if out.resolve() == source.resolve() or out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{out}: must lie outside {source}, or its own output would be its input")
    jobs = plan(source, out)
    if not jobs:
        raise ConfigError(f"{source}: holds no videos")
    _copy_lists(source, out)
    results = []
    for done, result in enumerate(in_processes(_Job(config), jobs, workers=config.workers, crashed=_crashed), 1):
        results.append(result)
        show_progress(done, len(jobs))
    failed = [result for result in results if result.state == "failed"]
    for result in failed[:20]:
        print(f"failed: {result.source}: {result.reason}")
    if len(failed) > 20:
        print(f"... and {len(failed) - 20} more")
    rows = [json.dumps({"path": str(result.source.relative_to(source)), "reason": result.reason}) for result in failed]
    write_text(out / "failed.jsonl", "".join(f"{row}\n" for row in rows))
    kept = sum(result.state == "kept" for result in results)
    before, after = sum(result.bytes_in for result in results), sum(result.bytes_out for result in results)
    print(f"{len(results) - kept - len(failed)} written and verified, {kept} done before, {len(failed)} failed; {_mega(before)} -> {_mega(after)}")
    return 1 if failed else 0


def plan(source: Path, out: Path) -> list[tuple[Path, Path]]:
    """(source, target) pairs; two sources of the same stem keep their suffix in the target's name so that neither overwrites the other."""
    files = [path for path in source.rglob("*") if is_video(path) and path.is_file() and not path.name.startswith(".")]
    targets: dict[Path, list[Path]] = {}
    for path in sorted(files, key=natural_key):
        targets.setdefault(out / path.relative_to(source).with_suffix(".mp4"), []).append(path)
    pairs = []
    for target, paths in targets.items():
        pairs += [(path, target if len(paths) == 1 else target.with_name(f"{path.name}.mp4")) for path in paths]
    return pairs


def _copy_lists(source: Path, out: Path) -> None:
    for path in source.rglob("*"):
        if path.suffix.lower() in (".csv", ".txt", ".json", ".tsv", ".cls") and path.is_file() and not path.name.startswith("."):
            write_atomically(out / path.relative_to(source), functools.partial(shutil.copyfile, path))


def _encode_checked(source: Path, temporary: Path, *, frames: int, config: TranscodeConfig) -> None:
    """Encode to ``temporary`` and count what is in it. Raises BadSample when the counts differ."""
    try:
        _encode(source, temporary, config)
    except av.FFmpegError as error:
        raise BadSample(source, f"cannot be encoded: {error.strerror or error}") from error
    written = count_frames(temporary)
    if written != frames:
        raise BadSample(source, f"the copy has {written} frames, the source {frames}")
    read_frames(temporary, [frames - 1])


def _encode(source: Path, temporary: Path, config: TranscodeConfig) -> None:
    info = probe_video(source)
    width, height = scaled_size(info.width, info.height, config.short_side)
    reader = PyavReader(source)
    try:
        times = _frame_times(reader)
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as out:
            stream: Any = out.add_stream("libx264", rate=Fraction(info.fps or 25).limit_denominator(100_000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            context = stream.codec_context
            context.thread_count, context.gop_size, context.time_base = 1, config.gop, _TIME_BASE
            options = {"crf": str(config.crf), "preset": config.preset, "sc_threshold": "0", "x264-params": _DROPPABLE}
            stream.options = {**options, "tune": config.tune} if config.tune else options
            for time, picture in zip(times, reader.walk()):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                frame = frame.reformat(width, height, "yuv420p", interpolation="AREA", threads=1)
                frame.pts, frame.time_base = time, _TIME_BASE
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    finally:
        reader.close()


def _frame_times(reader: PyavReader) -> list[int]:
    """Display times in 1/90000 s from 0, strictly increasing."""
    index = reader.index
    times: list[int] = []
    for pts in index.pts.tolist():
        time = round((pts - int(index.pts[0])) * index.time_base / _TIME_BASE)
        times.append(max(time, times[-1] + 1) if times else 0)
    return times


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Even sides with the shorter one at ``short_side``; never enlarged."""
    scale = min(1.0, short_side / min(width, height))
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _signature(source: Path, config: TranscodeConfig) -> dict[str, Any]:
    stat = source.stat()
    keys = ("short_side", "gop", "crf", "preset", "tune")
    return {"source_bytes": stat.st_size, "source_time": stat.st_mtime_ns, **{key: getattr(config, key) for key in keys}}


def _read_note(note: Path) -> Any:
    try:
        return json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        return None


def _mega(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class _Job:
    config: TranscodeConfig

    def __call__(self, pair: tuple[Path, Path]) -> Transcoded:
        return transcode_file(*pair, self.config)


def _crashed(pair: tuple[Path, Path]) -> Transcoded:
    return Transcoded(*pair, "failed", reason="the decoder or encoder crashed on it")
