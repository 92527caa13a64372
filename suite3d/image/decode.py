"""Encoded pictures to pixels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from suite3d.image.convert import ToRgb
from suite3d.source import BadSample

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_SIGNATURES = ((b"\xff\xd8", "mjpeg"), (b"\x89PNG", "png"), (b"BM", "bmp"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"P6", "ppm"), (b"P5", "pgm"))


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame_2 comes before frame_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path)) if part]


def decode_image(data: bytes, path: object) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of an encoded picture, told by its first bytes and not by its name.

    Raises:
        BadSample: empty, not a picture, or damaged.
    """
    if not data:
        raise BadSample(path, "empty: zero bytes")
    name = next((codec for signature, codec in _SIGNATURES if data.startswith(signature)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        name = "webp"
    if name is None:
        raise BadSample(path, "is not a picture (JPEG, PNG, WebP, TIFF, BMP, PPM)")
    try:
        codec: Any = av.CodecContext.create(name, "r")
        codec.thread_count = 1
        pictures = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    except (av.FFmpegError, OSError) as error:
        raise BadSample(path, f"cannot be read as a picture: {getattr(error, 'strerror', None) or error}") from error
    if not pictures or pictures[0].is_corrupt:
        raise BadSample(path, "damaged picture")
    return np.ascontiguousarray(ToRgb()(pictures[0]))
