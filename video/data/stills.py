"""Pictures that stand for video: one still image as a clip, a folder of images as the frames of a video."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.image.decode import decode_image, is_image, natural_key
from suite3d.source import BadSample

_FLOW = re.compile(r"^(flow|flow_?[xy]|[xyuv])_?\d*$", re.IGNORECASE)  # optical flow that mmaction2 and TSN keep beside the frames


def frame_files(folder: Path) -> list[Path]:
    """Images of a raw-frame folder by frame number (2 before 10), without optical flow."""
    files = [path for path in folder.iterdir() if is_image(path) and not path.name.startswith(".")]
    frames = [path for path in files if not _FLOW.match(path.stem)]
    return sorted(frames or files, key=natural_key)


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
