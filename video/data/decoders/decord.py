"""decord 0.6: PyAV's index, decord's pixels where decord is right.

decord bundles FFmpeg 4.1. Measured against PyAV 18 on ``shared/data/video``: equal to the bit on H.264, VP8 and VP9 in 8-bit 4:2:0 of even
size; one grey level off on single pixels of MPEG-4 part 2 (another inverse cosine transform); up to 166 levels off on 10-bit and on odd
sizes (another chroma interpolation); AV1 not at all. It starts decoding at the wrong frame where groups of pictures are open (decord#194).
Only the first group is left to it, with closed groups and no rotation.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.video.data.decoders.pyav import PyavReader

_EXACT_CODECS = frozenset({"h264", "vp8", "vp9", "libvpx", "libvpx-vp9"})
_EXACT_FORMATS = frozenset({"yuv420p", "yuvj420p"})
_SAME_TIME = 2e-3  # decord keeps seconds in float32


class DecordReader(PyavReader):
    """As :class:`PyavReader`; streams that decord reads exactly are decoded by it, all others by PyAV.

    Raises:
        BadSample: as PyavReader.
        ImportError: decord is missing.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        import decord

        super().__init__(path, data)
        self._error = decord.DECORDError
        self._decoder = None
        if not self._trusted():
            return
        try:
            decoder = decord.VideoReader(str(path) if data is None else io.BytesIO(data), num_threads=1)
            times = decoder.get_frame_timestamp(range(len(decoder)))[:, 0].astype(np.float64)
        except (self._error, RuntimeError):
            return
        expected = (self.index.pts - self.index.pts[0]) * float(self.index.time_base)
        if len(times) == len(expected) and np.allclose(times - times[0], expected, atol=_SAME_TIME, rtol=1e-5):
            self._decoder = decoder

    def _trusted(self) -> bool:
        even = self.coded_size[0] % 2 == 0 and self.coded_size[1] % 2 == 0
        exact = self.codec in _EXACT_CODECS and self.pixel_format in _EXACT_FORMATS
        return even and exact and not self.index.counted and self.index.closed_groups and self.rotation() == 0

    def close(self) -> None:
        super().close()
        self._decoder = None

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        if self._decoder is None:
            return super().read(frames)
        try:
            pictures: NDArray[np.uint8] = self._decoder.get_batch(frames.tolist()).asnumpy()
        except (self._error, RuntimeError):  # PyAV tells whether it is damage
            return super().read(frames)
        return pictures
