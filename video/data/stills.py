"""Pictures that stand for video: one still image as a clip, a folder of images as the frames of a video."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from suite3d.source import BadSample
from suite3d.video.data.decoders.convert import ToRgb

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
_FLOW = re.compile(r"^(flow|flow_?[xy]|[xyuv])_?\d*$", re.IGNORECASE)  # optical flow that mmaction2 and TSN keep beside the frames
_SIGNATURES = ((b"\xff\xd8", "mjpeg"), (b"\x89PNG", "png"), (b"BM", "bmp"), (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"P6", "ppm"), (b"P5", "pgm"))


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def frame_files(folder: Path) -> list[Path]:
    """Images of a raw-frame folder by frame number (2 before 10), without optical flow."""
    files = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    frames = [path for path in files if not _FLOW.match(path.stem)]
    return sorted(frames or files, key=natural_key)


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


class StillReader:
    """A still image: one frame, which answers to any frame number."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        self._picture = decode_image(path.read_bytes() if data is None else data, path)

    def __len__(self) -> int:
        return 1

    @property
    def size(self) -> tuple[int, int]:
        """(width, height)."""
        return self._picture.shape[1], self._picture.shape[0]

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.repeat(self._picture[None], len(frames), axis=0)

    def close(self) -> None:
        """Nothing is held open."""


class FolderReader:
    """A folder of images, one a frame.

    Raises:
        BadSample: no images in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = frame_files(path)
        if not self.files:
            raise BadSample(path, "holds no images")

    def __len__(self) -> int:
        return len(self.files)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first frame."""
        first = decode_image(self.files[0].read_bytes(), self.files[0])
        return first.shape[1], first.shape[0]

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As PyavReader.read. Raises BadSample naming the image when one is damaged or of another size."""
        pictures = []
        for file in (self.files[frame] for frame in frames):
            try:
                pictures.append(decode_image(file.read_bytes(), file))
            except OSError as error:
                raise BadSample(file, f"cannot be read: {error.strerror}") from error
            if pictures[-1].shape != pictures[0].shape:
                raise BadSample(file, f"frame size changes from {pictures[0].shape[:2]} to {pictures[-1].shape[:2]}")
        return np.stack(pictures)

    def close(self) -> None:
        """Nothing is held open."""
