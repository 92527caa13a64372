"""Frames to an mp4 file (H.264), whatever made them: the motion set, a simulated camera, a test."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_atomically

REPEATABLE = "rc-lookahead=0:sync-lookahead=0:mbtree=0"
"""x264 without its look-ahead, which about once in 500 files encodes equal frames to other bytes."""


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: int | Fraction = 25,
    crf: int = 12,
    gop: int = 16,
    preset: str = "veryfast",
) -> int:
    """Encode frames to ``path`` as H.264 in yuv420p, atomically, and return how many there were.

    Equal frames give equal bytes: one encoder thread, no time stamp of writing.

    Args:
        path: file to write, usually ``*.mp4``.
        frames: each ``(H, W, 3)`` uint8 RGB, all of one size with even sides (yuv420p halves the colour resolution); a ``(T, H, W, 3)``
            array or anything that yields frames one by one.
        fps: frames a second.
        crf: x264's constant rate factor; 0 is lossless in yuv, 12 hardly visible, 23 x264's default.
        gop: most frames from one key frame to the next, which is what a random access has to decode.
        preset: x264's speed preset.

    Raises:
        ValueError: no frame, or a frame of another size or type than the first.
    """
    import av

    count = 0

    def encode(temporary: Path) -> None:
        nonlocal count
        with av.open(str(temporary), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps))
            stream.pix_fmt = "yuv420p"
            stream.gop_size = gop
            stream.codec_context.thread_count = 1
            stream.options = {"crf": str(crf), "preset": preset, "bf": "0", "x264-params": REPEATABLE}
            size: tuple[int, ...] | None = None
            for frame in frames:
                if size is None:
                    size = _check_first(frame)
                    stream.height, stream.width = size[:2]
                if frame.shape != size or frame.dtype != np.uint8:
                    raise ValueError(f"write_video expected frames of {size} uint8, got {frame.shape} {frame.dtype} as frame {count}")
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
                count += 1
            if count == 0:
                raise ValueError("write_video expected at least one frame, got none")
            container.mux(stream.encode(None))

    write_atomically(Path(path), encode)
    return count


def _check_first(frame: NDArray[np.uint8]) -> tuple[int, ...]:
    shape = tuple(frame.shape)
    if frame.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or shape[0] % 2 or shape[1] % 2 or 0 in shape:
        raise ValueError(f"write_video expected (H, W, 3) uint8 frames with even H and W, got {shape} {frame.dtype}")
    return shape
