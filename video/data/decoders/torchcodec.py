"""torchcodec (>= 0.9): PyAV's index, torchcodec's pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.source import BadSample
from suite3d.video.data.decoders.pyav import PyavReader

_SAME_TIME = 1e-4


class TorchcodecReader(PyavReader):
    """As :class:`PyavReader`; frames are decoded by torchcodec wherever both count the same frames, else by PyAV.

    Raises:
        BadSample: as PyavReader.
        ImportError: torchcodec is missing or does not load (it needs FFmpeg's libraries on the system).
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (OSError, RuntimeError) as error:  # its libraries find no FFmpeg, or another torch than they were built for
            raise ImportError(str(error).splitlines()[0]) from error
        super().__init__(path, data)
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
            batch = self._decoder.get_frames_at(frames.tolist())
        except (RuntimeError, ValueError):  # its seeks fail on some transport streams and with intra refresh; PyAV tells whether it is damage
            return super().read(frames)
        if not np.allclose(batch.pts_seconds.numpy(), self.index.pts[frames] * float(self.index.time_base), rtol=0, atol=_SAME_TIME):
            return super().read(frames)
        pictures: NDArray[np.uint8] = batch.data.numpy()
        return pictures
