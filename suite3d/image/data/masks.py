"""Label pictures: palette or grey files whose values are numbers of objects or classes, not colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from suite3d.image.decode import decode_image
from suite3d.source import BadSample

_PNG = b"\x89PNG\r\n\x1a\n"


def read_labels(path: Path) -> NDArray[np.int64]:
    """``(H, W)`` int64 values of a label file: palette indices as they are (DAVIS, PASCAL VOC), or grey values (ADE20K, Cityscapes).

    Palettes and grey of 1 to 16 bits are read without stretching; of other pictures all three channels must agree.

    Raises:
        BadSample: not readable, not a picture, or coloured.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadSample(path, f"cannot be read: {error.strerror or error}") from error
    if not data.startswith(_PNG):
        return _one_channel(decode_image(data, path), path)
    try:
        codec: Any = av.CodecContext.create("png", "r")
        frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except (av.FFmpegError, OSError) as error:
        raise BadSample(path, f"cannot be read as a picture: {getattr(error, 'strerror', None) or error}") from error
    if not frames or frames[0].is_corrupt:
        raise BadSample(path, "damaged picture")
    frame, kind, depth = frames[0], frames[0].format.name, data[24]
    plane: Any = frame.planes[0]
    rows = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: frame.height]
    if kind == "monob":
        return np.unpackbits(rows, axis=1)[:, : frame.width].astype(np.int64)
    if kind == "gray16be":
        return rows[:, : 2 * frame.width].copy().view(">u2").astype(np.int64)
    if kind in ("pal8", "gray"):
        step = 255 // (2**depth - 1) if kind == "gray" else 1  # grey of 2 and 4 bits comes stretched to 8
        return rows[:, : frame.width].astype(np.int64) // step
    return _one_channel(decode_image(data, path), path)


def _one_channel(picture: NDArray[np.uint8], path: Path) -> NDArray[np.int64]:
    if (picture != picture[..., :1]).any():
        raise BadSample(path, "is a coloured picture: expected labels as a palette or grey PNG")
    return picture[..., 0].astype(np.int64)
