"""torchcodec (>= 0.9): PyAV's index, torchcodec's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.source import BadSample
from suite3d.video.data.decoders.pyav import PyavReader


class TorchcodecReader(PyavReader):
    """As :class:`PyavReader`; frames are decoded by torchcodec wherever both count the same frames, else by PyAV.

    Raises:
        BadSample: as PyavReader.
        ImportError: torchcodec is missing or does not load (it needs FFmpeg's libraries on the system).
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        super().__init__(path, data)
        from torchcodec.decoders import VideoDecoder

        try:
            self._decoder = VideoDecoder(str(path) if data is None else data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            self.close()
            raise BadSample(path, f"cannot be read as video: {str(error).splitlines()[0]}") from error
        self._usable = not self.index.counted and len(self._decoder) == len(self.index) and hasattr(self._decoder.metadata, "rotation")

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        if not self._usable:
            return super().read(frames)
        try:
            pictures: NDArray[np.uint8] = self._decoder.get_frames_at(frames.tolist()).data.numpy()
        except (RuntimeError, ValueError) as error:
            raise BadSample(self.path, f"damaged: {str(error).splitlines()[0]}") from error
        return pictures
