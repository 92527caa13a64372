"""From (file, frame numbers) to pixels: one function for videos, raw-frame folders, stills and members of tar shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suite3d.image.decode import is_image
from suite3d.shards import read_member, split_member
from suite3d.source import BadSample
from suite3d.video.data.decoders.cache import cached, close_all, forget
from suite3d.video.data.decoders.pyav import PyavReader
from suite3d.video.data.stills import FolderReader, StillReader

READERS = ("auto", "pyav", "torchcodec", "decord")

__all__ = ["READERS", "VideoInfo", "close_readers", "count_frames", "probe_video", "read_frames"]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds, from its packets and first picture, not from its header.

    Attributes:
        frames: number of frames.
        fps: mean frames per second; 0 where time means nothing (stills, frame folders, a single frame).
        width, height: pixels, after the rotation.
        rotation: counter-clockwise turn in degrees (0, 90, 180, 270) already applied to what ``read_frames`` returns.
        variable_frame_rate: gaps between frames differ by more than 10 %.
        duration: seconds; 0 where fps is.
        codec: name of the codec; empty for stills and folders.
        key_frames: frames at which decoding can begin.
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int
    variable_frame_rate: bool
    duration: float
    codec: str = ""
    key_frames: int = 0


def read_frames(path: Path | str, indices: ArrayLike | Sequence[int], *, reader: str = "auto") -> NDArray[np.uint8]:
    """Frames of a video.

    Frame ``i`` is the i-th picture in order of display, also in files with a variable frame rate, B-frames, long groups of pictures or an
    edit list. The display rotation is applied. Every reader returns the same frames with the same pixels.

    Args:
        path: video file, folder of images, still image (any index gives the one picture), or ``archive.tar/member``.
        indices: (n,) frame numbers, any order, duplicates allowed.
        reader: back-end; "auto" is PyAV.

    Returns:
        (n, H, W, 3) uint8 RGB.

    Raises:
        BadSample: missing, empty, truncated, unreadable, without video, damaged in a wanted frame, or shorter than an index.
        ValueError: no indices, not whole numbers, or negative.
    """
    wanted = np.asarray(indices)
    if wanted.ndim != 1 or not len(wanted) or wanted.dtype.kind not in "iu" or wanted.min() < 0:
        raise ValueError(f"indices: expected one or more whole numbers from 0 on, got {indices!r}")
    path = Path(path)
    key, opened = _open(path, reader)
    unique, inverse = np.unique(wanted.astype(np.int64), return_inverse=True)
    if not isinstance(opened, StillReader) and unique[-1] >= _length(opened):
        raise BadSample(path, f"too short: frame {unique[-1]} is wanted, it holds {_length(opened)}")
    try:
        frames: NDArray[np.uint8] = opened.read(unique)
    except BadSample:
        forget(key)
        raise
    return frames if len(unique) == len(wanted) and np.array_equal(unique, wanted) else frames[inverse.reshape(-1)]


def probe_video(path: Path | str, *, reader: str = "auto") -> VideoInfo:
    """What ``path`` (as in :func:`read_frames`) holds. Decodes one picture.

    Raises:
        BadSample: as read_frames.
    """
    path = Path(path)
    key, opened = _open(path, reader)
    if isinstance(opened, (StillReader, FolderReader)):
        width, height = opened.size
        return VideoInfo(
            frames=len(opened), fps=0.0, width=width, height=height, rotation=0, variable_frame_rate=False, duration=0.0, key_frames=len(opened)
        )
    try:
        rotation = opened.rotation()
    except BadSample:
        forget(key)
        raise
    index, (width, height) = opened.index, opened.coded_size
    if rotation % 180:
        width, height = height, width
    return VideoInfo(
        frames=len(index),
        fps=index.fps,
        width=width,
        height=height,
        rotation=rotation,
        variable_frame_rate=index.variable_frame_rate,
        duration=index.seconds,
        codec=opened.codec,
        key_frames=len(np.unique(index.start)),
    )


def count_frames(path: Path | str, *, reader: str = "auto") -> int:
    """Number of frames, as ``probe_video(path).frames`` but without decoding anything. Raises BadSample."""
    opened = _open(Path(path), reader)[1]
    return 1 if isinstance(opened, StillReader) else _length(opened)


def close_readers() -> None:
    """Close what this thread keeps open (at most four files)."""
    close_all()


def _length(opened: Any) -> int:
    return len(opened) if isinstance(opened, FolderReader) else len(opened.index)


def _open(path: Path, reader: str) -> tuple[tuple[Any, ...], Any]:
    """(cache key, open reader). A file that changed on disk is opened anew."""
    if reader not in READERS:
        raise ValueError(f"reader: expected one of {', '.join(READERS)}, got {reader!r}")
    member = split_member(path)
    try:
        stat = os.stat(path if member is None else member[0])
    except OSError as error:
        raise BadSample(path, f"missing: {error.strerror}") from error
    folder = os.path.isdir(path)
    if member is None and not folder and not stat.st_size:
        raise BadSample(path, "empty: zero bytes")
    key = (reader, str(path), stat.st_mtime_ns, stat.st_size)
    return key, cached(key, lambda: _create(path, member, folder, reader))


def _create(path: Path, member: tuple[Path, str] | None, folder: bool, reader: str) -> Any:
    if folder:
        return FolderReader(path)
    data = None if member is None else read_member(*member)
    if data is not None and not data:
        raise BadSample(path, "empty: zero bytes")
    if is_image(path):
        return StillReader(path, data)
    try:
        return _back_end(reader)(path, data)
    except ImportError as error:
        raise ImportError(f"reader='{reader}' does not load: {error}. pip install {reader}, or take reader='auto', which is PyAV") from error


def _back_end(reader: str) -> Callable[[Path, bytes | None], Any]:
    if reader == "torchcodec":
        from suite3d.video.data.decoders.torchcodec import TorchcodecReader

        return TorchcodecReader
    if reader == "decord":
        from suite3d.video.data.decoders.decord import DecordReader

        return DecordReader
    return PyavReader
